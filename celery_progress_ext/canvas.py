"""``tracked_chord``: a Celery chord whose rows are there before anything of it is published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any, Literal, Protocol, overload
from uuid import UUID

from celery import Celery, uuid
from celery.canvas import Signature, chain, chord, chunks, group, maybe_signature
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.functional import maybe_list
from celery.utils.time import maybe_iso8601, maybe_make_aware

from celery_progress_ext import ids
from celery_progress_ext.chunks import Chunk
from celery_progress_ext.exceptions import InvalidCanvas, NotPublished, ProgressError
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.kinds import kind_of
from celery_progress_ext.lanes import JobQueues
from celery_progress_ext.log import get_logger
from celery_progress_ext.publishing import Publisher, PublishOnceGroup, ignore_results_of_tracked, outage_of
from celery_progress_ext.recording import Recording
from celery_progress_ext.storage import job_changes
from celery_progress_ext.storage.job_changes import NewChunk, NewJob
from celery_progress_ext.storage.json import dumps, loads
from celery_progress_ext.titles import clean
from celery_progress_ext.tracked_job import Operations, TrackedJob

logger = get_logger(__name__)

POLICIES = ("partial", "fail")
#: Options of `apply_async` and `set` that hold for every message of the chord.
_MESSAGE_OPTIONS = frozenset(
    {
        "queue",
        "exchange",
        "routing_key",
        "priority",
        "expires",
        "time_limit",
        "soft_time_limit",
        "headers",
        "serializer",
        "compression",
    }
)


class Extension(Operations, Protocol):
    """What the canvas needs of ``CeleryProgress``."""

    @property
    def recording(self) -> Recording:
        """Records how a job ends."""

    @property
    def publisher(self) -> Publisher:
        """Notes what was sent."""


@Signature.register_type("tracked_chord")
class tracked_chord(chord):  # type: ignore[misc]  # lower case as Celery's own canvas primitives
    """A chord that is tracked: durable rows, exact progress, and a body that runs exactly once.

    :param header: the chunks' task signatures, one task each, in page order.
    :param body: the merge's task signature; it gets the results of the completed chunks, in chunk order.
    :param matter_id: the tenant whose credentials may read the job.
    :param document_id: what is worked on.
    :param ranges: (first, last) of each chunk, counted from 1, both inclusive; (1, 1), (2, 2), … by default.
    :param unit: what a range counts, in messages.
    :param on_chunk_failure: ``partial``, the others go on and the body merges what there is; or ``fail``.
    :param metadata: JSON-serialisable extras that every snapshot carries.
    :param costs: what each chunk is expected to cost, in any unit: seconds, bytes, rows. The finish time and the bar of
        work go by it; without costs, by the length of the ranges.
    :param kind: told apart from other jobs of the same tasks when past jobs are learned from: a language, a size.
    :param lane: a queue for the chunks, used while a worker listens to it; see :mod:`celery_progress_ext.lanes`.
    :param title: what people call the job, such as a file's name: lists show it and search it. Cut to 255 characters.
    :raises InvalidCanvas: for an empty header, members or a body that are not single tasks, ranges that do not
        fit, overlap or leave a gap, arguments that are not JSON.
    """

    _extension_of: Any = None

    # What users may pass, so that a type checker reports a misspelt keyword; Celery passes more, for clones.
    @overload
    def __init__(
        self,
        header: Iterable[Signature],
        body: Signature | None = None,
        *,
        matter_id: str | int | UUID,
        document_id: str | int | UUID,
        ranges: Sequence[tuple[int, int]] | None = None,
        unit: str = "pages",
        on_chunk_failure: Literal["partial", "fail"] = "partial",
        metadata: Mapping[str, Any] | None = None,
        costs: Sequence[float] | None = None,
        kind: str | None = None,
        lane: str | None = None,
        title: str | None = None,
        app: Celery | None = None,
    ) -> None: ...
    @overload
    def __init__(self, header: Any, body: Any = None, *, args: Any, kwargs: Any, app: Any = None) -> None: ...

    def __init__(
        self,
        header: Iterable[Signature],
        body: Signature | None = None,
        *,
        matter_id: str | int | UUID | None = None,
        document_id: str | int | UUID | None = None,
        ranges: Sequence[tuple[int, int]] | None = None,
        unit: str = "pages",
        on_chunk_failure: str = "partial",
        metadata: Mapping[str, Any] | None = None,
        costs: Sequence[float] | None = None,
        kind: str | None = None,
        lane: str | None = None,
        title: str | None = None,
        app: Celery | None = None,
        **options: Any,
    ) -> None:
        # A generator would be gone after it is counted; a group knows its tasks.
        header = header if isinstance(header, group | dict) else list(header)
        kwargs = options.pop("kwargs", None) or {"kwargs": {}}
        if matter_id is not None or "tracking" not in kwargs:
            kwargs = {
                **kwargs,
                "tracking": {
                    "matter_id": _identifier("matter_id", matter_id),
                    "document_id": _identifier("document_id", document_id),
                    "ranges": None if ranges is None else [[int(first), int(last)] for first, last in ranges],
                    "unit": unit,
                    "on_chunk_failure": on_chunk_failure,
                    "metadata": dict(metadata or {}),
                    # Only where they are given: a worker of before takes the signature apart, too.
                    **({} if costs is None else {"costs": _costs(costs)}),
                    **({} if kind is None else {"kind": str(kind)}),
                    **({} if title is None else {"title": clean(str(title))}),
                    "lane": lane,
                },
            }
        super().__init__(header, body, kwargs=kwargs, app=app, **options)
        self.subtask_type = "tracked_chord"

    @property
    def tracking(self) -> dict[str, Any]:
        """What the canvas was given about its job."""
        return dict(self.kwargs["tracking"])

    def freeze(self, _id: str | None = None, **options: Any) -> TrackedJob:
        """Give the job its id, and what follows the body theirs, once per application of a surrounding chain: a
        redelivered step then finds its job.
        """
        job_id = self.options.setdefault("progress_job_id", self.options.get("progress_job_id") or ids.new_job_id())
        self.id = job_id
        if not isinstance(self.kwargs["header"], group):
            self.kwargs["header"] = group(self.kwargs["header"], app=self.app)
        self.kwargs["body"], last_id = _with_fixed_ids(self.kwargs["body"], self.app)
        # The first task of the chain may take its time before it publishes the job.
        return TrackedJob(job_id, type(self)._extension_of(self.app), last_id=last_id, wait=float("inf"), app=self.app)

    def apply_async(self, args: Any = (), kwargs: Any = None, **options: Any) -> TrackedJob:
        """Insert the rows, then publish the chord.

        From the rows on the job exists. Where the broker or the result backend is away, the job is returned all the
        same, with the warning ``job_not_sent``: the reconciler sends what was not sent once they are back. Publishing
        again would create a second job.

        :raises InvalidCanvas: as the class says.
        :raises DatabaseNotMigrated: when the tables are missing.
        :raises DatabaseAway: when the database does not answer; there is no job then.
        :raises NotPublished: when the messages cannot be sent at all; the job is FAILED then.
        """
        app = self.app
        # The guard is put on an app's tasks when it is finalized; eager tasks run before anything else does that.
        app.finalize(auto=True)
        extension: Extension = type(self)._extension_of(app)
        options = {**self.options, **options}
        job_id = options.pop("progress_job_id", None) or ids.new_job_id()
        kwargs = dict(kwargs or {})
        # One copy of the header at a time: the rows hold each signature as JSON, until they are committed, and what is
        # published is cloned from the members again. Celery makes a copy of its own.
        members = _members(self.tasks)
        body, last_id = _with_fixed_ids(kwargs.pop("body", None) or self.kwargs["body"], app)
        body, followers = _body(body, options, app)
        # In the stored signatures too, so that a chunk sent again goes the same way. The results are always stored:
        # what no receiver reported is looked up in the backend, and one that polls would wait for them for good (F26).
        sent_with = {name: value for name, value in options.items() if name in _MESSAGE_OPTIONS}
        sent_with["ignore_result"] = False
        body.options.update(sent_with)
        publisher = extension.publisher
        chunk_lane, body_lane = self.tracking.get("lane"), extension.context.settings.body_queue
        body = publisher.choose_lane(body, body_lane)
        header = _Header(
            members, args, kwargs, sent_with, choose_lane=lambda signature: publisher.choose_lane(signature, chunk_lane)
        )
        queues = JobQueues(
            chunks=_queue_of(publisher, next(iter(header))),
            body=_queue_of(publisher, body),
            chunk_lane=chunk_lane,
            body_lane=body_lane,
        )
        delay = {name: options[name] for name in ("countdown", "eta") if options.get(name) is not None}
        lease, seconds = extension.context.settings.lease_seconds, _seconds_to(delay, app)
        new = _new_job(job_id, self.tracking, header, body, followers, queues)
        create = partial(
            job_changes.create,
            new=new,
            due=lease + seconds,
            lease=lease,
            merge_share=_merge_share(extension, new.kind),
        )
        del new
        created = extension.context.database.write(create)
        del create
        job = TrackedJob(job_id, extension, last_id=last_id, app=app)
        if created is None:
            logger.info("job_exists", job_id=job_id)
            return job
        logger.info("job_created", job_id=job_id, matter_id=self.tracking["matter_id"], chunks=len(header))
        try:
            extension.context.broadcaster.publish(extension.context.snapshots.of(created))
        except Exception as error:
            # The database was lost right after the commit; the job exists and the next tick broadcasts it.
            logger.warning("job_not_broadcast", job_id=job_id, error=f"{type(error).__name__}: {error}")
        plain = chord([], _with_id(body, ids.body_task_id(job_id, 1)), app=app)
        parts = PublishOnceGroup(
            [_with_id(signature, ids.chunk_task_id(job_id, index, 1)) for index, signature in enumerate(header)],
            app=app,
        )
        plain.tasks = parts
        with extension.publisher.marker(job_id, delay=seconds) as marker:
            parts.on_sent = lambda task_id: marker.sent(task_id.rpartition(".")[0], task_id)
            _publish(plain, job_id, extension, **delay)
        return job

    def __call__(self, body: Signature | None = None, **options: Any) -> TrackedJob:
        """Celery's documented form: ``tracked_chord(header, …)(body)``."""
        return self.apply_async((), {"body": body} if body else {}, **options)


def bind(find: Any) -> None:
    """Set how the primitive finds the extension of an app."""
    tracked_chord._extension_of = staticmethod(find)


def _publish(plain: chord, job_id: str, extension: Extension, **delay: Any) -> None:
    """Send the chord's messages, or leave that to the reconciler."""
    try:
        ignore_results_of_tracked(plain.app)
        plain.apply_async(task_id=ids.body_task_id(job_id, 1), root_id=job_id, **delay)
    except SoftTimeLimitExceeded:
        raise  # of the task that publishes; as where it is killed (F15), the reconciler sends the rest
    except Exception as error:
        if plain.app.conf.task_always_eager:
            raise  # a task's own
        if (away := outage_of(error)) is not None:
            advice = "The job exists: do not publish it again. The reconciler sends what was not sent."
            logger.warning("job_not_sent", job_id=job_id, error=f"{type(away).__name__}: {away}", advice=advice)
            return
        # A queue, a serializer or a result backend that cannot be used: retrying cannot help.
        reason = f"{type(error).__name__}: {error}"
        verdict = f"The job could not be published: {reason}"
        ended = extension.context.database.write(
            lambda conn: job_changes.end(conn, job_id, JobStatus.FAILED, error=verdict)
        )
        if ended is not None:
            extension.recording.bodies.run_ended(ended)
        raise NotPublished(f"Job {job_id} could not be published, and is FAILED: {reason}", job_id=job_id) from error


def _identifier(name: str, value: Any) -> str:
    """An id as the rows hold it: text."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int | UUID) and not isinstance(value, bool):
        return str(value)
    raise InvalidCanvas(
        f"tracked_chord needs a {name}: a string that is not empty (or a UUID, or a number), not {value!r}"
    )


def _members(tasks: Any) -> list[Signature]:
    given = list(tasks.tasks if isinstance(tasks, group) else tasks)
    if not given:
        raise InvalidCanvas("The header is empty: give tracked_chord at least one task signature.")
    members: list[Signature] = []
    for index, member in enumerate(given):
        member = member if isinstance(member, Signature) else Signature.from_dict(member)
        if member.task == "celery.chunks":
            # `task.chunks(…)` is a way to write several tasks.
            # Not `+=`: Celery's lazy list would make the sum one of its own, which must not be read twice.
            members.extend(chunks(**member.kwargs, app=member.app).group().tasks)
            continue
        if isinstance(member, group | chord | chain) or member.subtask_type:
            raise InvalidCanvas(
                f"Header member {index} is a {member.subtask_type or type(member).__name__}, not a task: a chunk"
                " is one task. Call the steps from one task, or chain them after the tracked chord."
            )
        members.append(member)
    return members


class _Header:
    """The chunks' signatures as they are sent, each cloned from its member when it is asked for."""

    def __init__(
        self,
        members: Sequence[Signature],
        args: Any,
        kwargs: Any,
        options: Mapping[str, Any],
        *,
        choose_lane: Callable[[Signature], Signature],
    ) -> None:
        self._members = members
        self._args = args
        self._kwargs = kwargs
        self._options = options
        self._choose_lane = choose_lane

    def __len__(self) -> int:
        return len(self._members)

    @property
    def tasks(self) -> set[str]:
        """The names of its tasks."""
        return {member.task for member in self._members}

    def __iter__(self) -> Iterator[Signature]:
        for member in self._members:
            yield self._choose_lane(member.clone(self._args, self._kwargs).set(**self._options))


def _queue_of(publisher: Publisher, signature: Signature) -> str | None:
    """The name of the queue that a signature goes to; None for one that is unknown here, which publishing names."""
    key = publisher.queue_key(signature)
    return None if key is None else key.queue


def _with_fixed_ids(body: Any, app: Celery) -> tuple[Any, str | None]:
    """The body, and what a canvas chained to it with task ids that stay; and the id of the last of these."""
    body = maybe_signature(body, app=app)
    if not _is_chain(body):
        return body, None
    body = body.clone()
    last = None
    body.tasks = _flat(body)
    for step in body.tasks[1:]:
        last = None if isinstance(step, group) else step.options.setdefault("task_id", uuid())
    return body, last


def _is_chain(signature: Any) -> bool:
    """Celery's ``chain`` makes objects of another class."""
    return getattr(signature, "subtask_type", None) == "chain"


def _flat(steps: Any) -> list[Signature]:
    """The steps of a chain, which may be chains."""
    return [each for step in steps.tasks for each in (_flat(step) if _is_chain(step) else [step])]


def _body(body: Any, options: dict[str, Any], app: Celery) -> tuple[Signature, dict[str, Any]]:
    """The task that merges, without callbacks, and what follows the job: ``links`` and ``errbacks``.

    Celery publishes a task's callbacks when its code returns, once for each time that it ran, and calls the errbacks of
    a chord's body as soon as a part fails (F21, F22). Here the job's end decides.
    """
    if body is None:
        raise InvalidCanvas("tracked_chord needs a body: the task that merges the chunks' results.")
    rest: list[Signature] = []
    links: list[Signature] = []
    errbacks: list[Signature] = []
    if _is_chain(body):
        links += maybe_list(body.options.get("link")) or []
        errbacks += maybe_list(body.options.get("link_error")) or []
        body, *rest = _flat(body)
    if isinstance(body, group | chord | chain) or body.subtask_type:
        raise InvalidCanvas(
            f"The body is a {body.subtask_type or type(body).__name__}, not a task: give the task that merges, and"
            " chain the rest: tracked_chord(header, merge.s(), …) | rest."
        )
    merge = body.clone()
    merge.options.pop("task_id", None)
    # What a surrounding chain has left to run; Celery keeps it reversed.
    rest += [Signature.from_dict(dict(step), app=app) for step in reversed(options.pop("chain", None) or ())]
    for source in (merge.options, options):
        links += maybe_list(source.pop("link", None)) or []
        errbacks += maybe_list(source.pop("link_error", None)) or []
    if rest:
        follower = rest[0].clone() if len(rest) == 1 else chain(*rest, app=app)
        for link in links:
            follower.link(link)
        for errback in errbacks:
            follower.link_error(errback)
        links = [follower]
    for link in links:
        if not _is_chain(link) and not isinstance(link, group):
            link["options"].setdefault("task_id", uuid())
    return merge, {"links": links, "errbacks": errbacks}


def _new_job(
    job_id: str,
    tracking: Mapping[str, Any],
    header: _Header,
    body: Signature,
    followers: Mapping[str, Any],
    queues: JobQueues,
) -> NewJob:
    if tracking["on_chunk_failure"] not in POLICIES:
        raise InvalidCanvas(f"on_chunk_failure must be one of {POLICIES}, not {tracking['on_chunk_failure']!r}")
    pieces = _chunks(tracking["ranges"], len(header))
    costs: Sequence[float] | None = tracking.get("costs")
    if costs is not None and len(costs) != len(header):
        raise InvalidCanvas(f"There are {len(header)} header tasks but {len(costs)} costs; give one cost per task.")
    return NewJob(
        id=job_id,
        matter_id=tracking["matter_id"],
        document_id=tracking["document_id"],
        unit=tracking["unit"],
        on_chunk_failure=tracking["on_chunk_failure"],
        metadata=_stored(tracking["metadata"], "metadata"),
        body_task_id=ids.body_task_id(job_id, 1),
        body_signature=_stored(body, "the body's arguments"),
        followers=_stored(followers, "what follows the body"),
        queues=queues.to_dict(),
        title=tracking.get("title") or None,
        chunks=[
            NewChunk(
                id=ids.chunk_id(job_id, chunk.index),
                chunk=chunk,
                task_id=ids.chunk_task_id(job_id, chunk.index, 1),
                signature=_stored(signature, f"the arguments of chunk {chunk.index}"),
                cost=None if costs is None else costs[chunk.index],
            )
            for chunk, signature in zip(pieces, header, strict=True)
        ],
        kind=kind_of(body=body.task, headers=header.tasks, unit=tracking["unit"], label=tracking.get("kind")),
    )


def _costs(costs: Sequence[float]) -> list[float]:
    """Costs as a signature carries them: positive numbers, since nothing is done in no time."""
    found = [float(cost) for cost in costs]
    for index, cost in enumerate(found):
        if not (isfinite(cost) and cost > 0):
            raise InvalidCanvas(f"The cost of chunk {index} must be a positive number, not {costs[index]!r}.")
    return found


def _merge_share(extension: Extension, kind: str | None) -> float | None:
    """Which part of the whole work the merge of this kind is; None where that cannot be looked up."""
    try:
        return extension.context.snapshots.kinds.get(kind).merge_share()
    except ProgressError as error:
        # What is wrong with the database is reported by the write that follows.
        logger.debug("kind_not_read", kind=kind, error=type(error).__name__)
        return None


def _chunks(ranges: Sequence[Sequence[int]] | None, count: int) -> list[Chunk]:
    if ranges is None:
        return [Chunk(index=index, page_start=index + 1, page_end=index + 1) for index in range(count)]
    if len(ranges) != count:
        raise InvalidCanvas(f"There are {count} header tasks but {len(ranges)} ranges; give one range per task.")
    previous = 0
    for index, (first, last) in enumerate(ranges):
        if last < first:
            raise InvalidCanvas(f"Range {index} ends before it begins: ({first}, {last}).")
        if first <= previous:
            raise InvalidCanvas(f"Range {index} ({first}, {last}) overlaps the one before, which ends at {previous}.")
        if index and first != previous + 1:
            raise InvalidCanvas(f"Ranges {index - 1} and {index} leave a gap: {previous} to {first}.")
        previous = last
    return [Chunk(index=index, page_start=first, page_end=last) for index, (first, last) in enumerate(ranges)]


def _stored(value: Any, what: str) -> Any:
    """A value as it will be read from the rows: whatever Celery's JSON serialiser takes, as it was."""
    try:
        return loads(dumps(value))
    except (TypeError, ValueError) as error:
        raise InvalidCanvas(f"{what} must be JSON-serialisable, so that it can be sent again: {error}") from None


def _seconds_to(delay: Mapping[str, Any], app: Celery) -> float:
    """How long a countdown or eta keeps the messages from being started, as Celery reads them."""
    if "countdown" in delay:
        return max(0.0, float(delay["countdown"]))
    if "eta" in delay:
        eta = maybe_make_aware(maybe_iso8601(delay["eta"]), app.timezone)
        return max(0.0, float((eta - app.now()).total_seconds()))
    return 0.0


def _with_id(signature: Signature, task_id: str) -> Signature:
    """The signature with its task id chosen: `group` keeps it through publishing."""
    return signature.set(task_id=task_id)
