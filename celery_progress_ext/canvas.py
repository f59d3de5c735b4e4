"""``tracked_chord``, ``tracked_group``, ``tracked_task``: canvases whose rows exist before any of it is published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import isfinite
from operator import index as whole
from typing import Any, ClassVar, Literal, Protocol, overload
from uuid import UUID

from celery import Celery, uuid
from celery.canvas import Signature, chain, chord, chunks, group, maybe_signature
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.functional import maybe_list
from celery.utils.time import maybe_iso8601, maybe_make_aware

from celery_progress_ext import ids
from celery_progress_ext.chunks import Chunk
from celery_progress_ext.eager_runs import EagerRunner
from celery_progress_ext.exceptions import InvalidCanvas, NotPublished, ProgressError
from celery_progress_ext.jobs import JobShape, JobStatus
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
#: What a chunk's range counts, unless the user says otherwise.
PAGES = "pages"
#: As long as what the rows hold.
_ID_LIMIT, _UNIT_LIMIT, _MESSAGE_LIMIT = 255, 32, 200
_LARGEST = 2**62
Id = str | int | UUID
#: (first, last), both inclusive, or Python's own.
Range = tuple[int, int] | range
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

    @property
    def eager_runner(self) -> EagerRunner:
        """Runs a job in this process."""


@Signature.register_type("tracked_chord")
class tracked_chord(chord):  # type: ignore[misc]  # lower case as Celery's own canvas primitives
    """A chord that is tracked: durable rows, exact progress, and a body that runs exactly once.

    :param header: the chunks' task signatures, one task each, in order.
    :param body: the merge's task signature; it gets the results of the completed chunks, in chunk order.
    :param owner: the tenant whose credentials may read the job; without one, only one that may read everything does.
    :param subject: what is worked on, such as a document.
    :param matter_id: another name of ``owner``, and ``document_id`` of ``subject``.
    :param ranges: what each chunk works on: (first, last), both inclusive, or a ``range``. They may begin at 0 or
        anywhere, have gaps, and stand in any order; messages name them as they are given. Without ranges a chunk is one
        unit, until its task reports a ``total``: that is its size then.
    :param sizes: how many units each chunk has, where that is not the length of its range: keys that are not dense.
    :param unit: what is counted, in messages: "rows".
    :param merge_message: what the stage of the body is called: "Importing the totals".
    :param on_chunk_failure: ``partial``, the others go on and the body merges what there is; or ``fail``.
    :param metadata: JSON-serialisable extras that every snapshot carries.
    :param costs: what each chunk is expected to cost, in any unit: seconds, bytes, rows. The finish time and the bar of
        work go by it; without costs, by the length of the ranges.
    :param kind: told apart from other jobs of the same tasks when past jobs are learned from: a language, a size.
    :param lane: a queue for the chunks, used while a worker listens to it; see :mod:`celery_progress_ext.lanes`.
    :param title: what people call the job, such as a file's name: lists show it and search it. Cut to 255 characters.
    :raises InvalidCanvas: for an empty header, members or a body that are not single tasks, ranges that do not
        fit, end before they begin or overlap, arguments that are not JSON.
    """

    _extension_of: Any = None
    #: What it is without a body; None where it needs one.
    _shape: ClassVar[JobShape | None] = None
    #: Its name, in messages and as the type of its signature.
    _name: ClassVar[str] = "tracked_chord"
    _unit: ClassVar[str] = PAGES

    # What users may pass, so that a type checker reports a misspelt keyword; Celery passes more, for clones.
    @overload
    def __init__(
        self,
        header: Iterable[Signature],
        body: Signature | None = None,
        *,
        owner: Id | None = None,
        subject: Id | None = None,
        matter_id: Id | None = None,
        document_id: Id | None = None,
        ranges: Sequence[Range] | None = None,
        sizes: Sequence[int] | None = None,
        unit: str = PAGES,
        merge_message: str | None = None,
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
        owner: Id | None = None,
        subject: Id | None = None,
        matter_id: Id | None = None,
        document_id: Id | None = None,
        ranges: Sequence[Range] | None = None,
        sizes: Sequence[int] | None = None,
        unit: str | None = None,
        merge_message: str | None = None,
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
        if "tracking" not in kwargs:
            given = {
                "sizes": None if sizes is None else _sizes(sizes),
                "merge_message": None if merge_message is None else _words("merge_message", merge_message),
                "costs": None if costs is None else _costs(costs),
                "kind": None if kind is None else str(kind),
                "title": None if title is None else clean(str(title)),
            }
            kwargs = {
                **kwargs,
                "tracking": {
                    "matter_id": _identifier(self._name, "owner", owner, "matter_id", matter_id),
                    "document_id": _identifier(self._name, "subject", subject, "document_id", document_id),
                    "ranges": None if ranges is None else [_range(index, each) for index, each in enumerate(ranges)],
                    "unit": _words("unit", self._unit if unit is None else unit, limit=_UNIT_LIMIT),
                    "on_chunk_failure": on_chunk_failure,
                    "metadata": dict(metadata or {}),
                    # Only where they are given: a worker of before takes the signature apart, too.
                    **{name: value for name, value in given.items() if value is not None},
                    "lane": lane,
                },
            }
        super().__init__(header, body, kwargs=kwargs, app=app, **options)
        self.subtask_type = self._name

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
        self.kwargs["body"], last_id = self._with_fixed_ids(self.kwargs.get("body"))
        # The first task of the chain may take its time before it publishes the job.
        return TrackedJob(job_id, type(self)._extension_of(self.app), last_id=last_id, wait=float("inf"), app=self.app)

    def apply_async(self, args: Any = (), kwargs: Any = None, **options: Any) -> TrackedJob:
        """Insert the rows, then publish the chord.

        From the rows on the job exists. Where the broker or the result backend is away, the job is returned all the
        same, with the warning ``job_not_sent``: the reconciler sends what was not sent once they are back. Publishing
        again would create a second job.

        With ``task_always_eager`` the job runs in this process, and is over when this returns: see :meth:`apply`.

        :raises InvalidCanvas: as the class says.
        :raises DatabaseNotMigrated: when the tables are missing.
        :raises DatabaseAway: when the database does not answer; there is no job then.
        :raises NotPublished: when the messages cannot be sent at all; the job is FAILED then.
        """
        return self._publish_or_run(args, kwargs, eager=bool(self.app.conf.task_always_eager), **options)

    def _publish_or_run(self, args: Any, kwargs: Any, *, eager: bool, **options: Any) -> TrackedJob:
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
        body, last_id = self._with_fixed_ids(kwargs.pop("body", None) or self.kwargs.get("body"))
        body, followers = self._take_apart(body, options)
        # In the stored signatures too, so that a chunk sent again goes the same way. The results are always stored:
        # what no receiver reported is looked up in the backend, and one that polls would wait for them for good (F26).
        sent_with = {name: value for name, value in options.items() if name in _MESSAGE_OPTIONS}
        sent_with["ignore_result"] = False
        publisher = extension.publisher
        chunk_lane, body_lane = self.tracking.get("lane"), extension.context.settings.body_queue
        if body is not None:
            body.options.update(sent_with)
            body = publisher.choose_lane(body, body_lane)
        header = _Header(
            members, args, kwargs, sent_with, choose_lane=lambda signature: publisher.choose_lane(signature, chunk_lane)
        )
        queues = JobQueues(
            chunks=_queue_of(publisher, next(iter(header))),
            body=None if body is None else _queue_of(publisher, body),
            chunk_lane=chunk_lane,
            body_lane=None if body is None else body_lane,
        )
        delay = {name: options[name] for name in ("countdown", "eta") if options.get(name) is not None}
        lease, seconds = extension.context.settings.lease_seconds, _seconds_to(delay, app)
        new = self._new_job(job_id, header, body, followers, queues)
        create = partial(
            job_changes.create,
            new=new,
            due=lease + seconds,
            lease=lease,
            merge_share=0.0 if body is None else _merge_share(extension, new.kind),
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
        if eager:
            extension.eager_runner.run(job_id)
            return job
        # The delay goes into each message: a chord's own reaches its header from Celery 5.7 on (celery #7851).
        parts = PublishOnceGroup(
            [
                _with_id(signature, ids.chunk_task_id(job_id, index, 1)).set(**delay)
                for index, signature in enumerate(header)
            ],
            app=app,
        )
        if body is None:
            send = partial(parts.apply_async, add_to_parent=False, root_id=job_id)
        else:
            plain = chord([], _with_id(body, ids.body_task_id(job_id, 1)), app=app)
            plain.tasks = parts
            send = partial(plain.apply_async, task_id=ids.body_task_id(job_id, 1), root_id=job_id)
        with extension.publisher.marker(job_id, delay=seconds) as marker:
            parts.on_sent = lambda task_id: marker.sent(task_id.rpartition(".")[0], task_id)
            _publish(send, job_id, extension, app)
        return job

    def _with_fixed_ids(self, body: Any) -> tuple[Any, str | None]:
        """The body, and what a canvas chained to it with task ids that stay; and the id of the last of these."""
        body = maybe_signature(body, app=self.app)
        if body is None:
            return None, None
        followers = 1 if self._merges(body) else 0
        if not _is_chain(body):
            if followers:
                return body, None
            body = body.clone()
            steps = [body]
        else:
            body = body.clone()
            body.tasks = steps = _flat(body)
        last = None
        for step in steps[followers:]:
            last = None if isinstance(step, group) else step.options.setdefault("task_id", uuid())
        return body, last

    def _merges(self, body: Any) -> bool:
        """Whether the first step of what comes behind the header is its body; else it follows the job."""
        if self._shape is None:
            return True
        steps = _flat(body) if _is_chain(body) else [body]
        return self._shape is JobShape.GROUP and _is_task(steps[0])

    def _take_apart(self, body: Any, options: dict[str, Any]) -> tuple[Signature | None, dict[str, Any]]:
        """The task that merges, without callbacks, and what follows the job: ``links`` and ``errbacks``.

        Celery publishes a task's callbacks when its code returns, once for each time that it ran, and calls the
        errbacks of a chord's body as soon as a part fails (F21, F22). Here the job's end decides.
        """
        if body is None and self._shape is None:
            raise InvalidCanvas(
                f"{self._name} needs a body: the task that merges the chunks' results. Without one, take tracked_group."
            )
        merges = body is not None and self._merges(body)
        steps: list[Signature] = []
        links: list[Signature] = []
        errbacks: list[Signature] = []
        if body is not None and _is_chain(body):
            links += maybe_list(body.options.get("link")) or []
            errbacks += maybe_list(body.options.get("link_error")) or []
            steps = _flat(body)
        elif body is not None:
            steps = [body]
        merge: Signature | None = None
        if merges:
            first, *steps = steps
            if not _is_task(first):
                raise InvalidCanvas(
                    f"The body is a {first.subtask_type or type(first).__name__}, not a task: give the task that"
                    " merges, and chain the rest: tracked_chord(header, merge.s(), …) | rest."
                )
            merge = first.clone()
            merge.options.pop("task_id", None)
        # What a surrounding chain has left to run; Celery keeps it reversed.
        steps += [Signature.from_dict(dict(step), app=self.app) for step in reversed(options.pop("chain", None) or ())]
        for source in (options,) if merge is None else (merge.options, options):
            links += maybe_list(source.pop("link", None)) or []
            errbacks += maybe_list(source.pop("link_error", None)) or []
        if steps:
            follower = steps[0].clone() if len(steps) == 1 else chain(*steps, app=self.app)
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
        self,
        job_id: str,
        header: _Header,
        body: Signature | None,
        followers: Mapping[str, Any],
        queues: JobQueues,
    ) -> NewJob:
        tracking = self.tracking
        if tracking["on_chunk_failure"] not in POLICIES:
            raise InvalidCanvas(f"on_chunk_failure must be one of {POLICIES}, not {tracking['on_chunk_failure']!r}")
        ranges, sizes, costs = (tracking.get(name) for name in ("ranges", "sizes", "costs"))
        for name, one, given in (("ranges", "range", ranges), ("sizes", "size", sizes), ("costs", "cost", costs)):
            if given is not None and len(given) != len(header):
                raise InvalidCanvas(
                    f"There are {len(header)} header tasks but {len(given)} {name}; give one {one} per task."
                )
        pieces = _chunks(ranges, sizes, len(header))
        # Where nobody has said how many units a chunk has, its task may.
        grows = ranges is None and sizes is None
        if grows and costs is None:
            # What its task reports then is its size, and not how much of the job it is.
            costs = [1.0] * len(header)
        shape = None if body is not None else self._shape
        return NewJob(
            id=job_id,
            matter_id=tracking["matter_id"],
            document_id=tracking["document_id"],
            unit=tracking["unit"],
            on_chunk_failure=tracking["on_chunk_failure"],
            metadata=_stored(tracking["metadata"], "metadata"),
            body_task_id=ids.body_task_id(job_id, 1),
            body_signature={} if body is None else _stored(body, "the body's arguments"),
            followers=_stored(followers, "what follows the body"),
            queues=queues.to_dict(),
            shape=shape,
            merge_message=tracking.get("merge_message"),
            title=tracking.get("title") or None,
            # The story's default: the first chunk is page 1, the second page 2.
            ranged=ranges is not None or (grows and tracking["unit"] == PAGES),
            chunks=[
                NewChunk(
                    id=ids.chunk_id(job_id, chunk.index),
                    chunk=chunk,
                    task_id=ids.chunk_task_id(job_id, chunk.index, 1),
                    signature=_stored(signature, f"the arguments of chunk {chunk.index}"),
                    cost=None if costs is None else costs[chunk.index],
                    grows=grows,
                )
                for chunk, signature in zip(pieces, header, strict=True)
            ],
            kind=kind_of(
                body=str(shape) if body is None else body.task,
                headers=header.tasks,
                unit=tracking["unit"],
                label=tracking.get("kind"),
            ),
        )

    def apply(self, args: Any = (), kwargs: Any = None, body: Signature | None = None, **options: Any) -> TrackedJob:
        """Run the job in this process: each chunk, the body, and what follows it. No broker, result backend or beat is
        needed. The policy holds: a chunk that fails does not raise, unless ``task_eager_propagates`` is set; then the
        first exception is raised once the job is over.
        """
        for name in ("propagate", "throw"):  # Celery's canvas passes them; the setting decides here
            options.pop(name, None)
        kwargs = {**(kwargs or {}), **({} if body is None else {"body": body})}
        return self._publish_or_run(args, kwargs, eager=True, **options)

    def __call__(self, body: Signature | None = None, **options: Any) -> TrackedJob:
        """Celery's documented form: ``tracked_chord(header, …)(body)``."""
        return self.apply_async((), {"body": body} if body else {}, **options)


class _NoBody:
    """What stands where a chord has its body: Celery chains a task to it by ``chord.body | task``."""

    def __or__(self, other: Any) -> Any:
        return other

    def __bool__(self) -> bool:
        return False


@Signature.register_type("tracked_group")
class tracked_group(tracked_chord):
    """A group that is tracked: it has no body, and its job ends with its last chunk. The job's result is the list of
    those of its completed chunks, in chunk order.

    A task that is chained to it becomes its body, as Celery makes a chord of ``group | task``; whatever else is chained
    to it follows the job. The parameters are those of :class:`tracked_chord`.
    """

    _shape = JobShape.GROUP
    _name = "tracked_group"

    @overload
    def __init__(
        self,
        header: Iterable[Signature],
        *,
        owner: Id | None = None,
        subject: Id | None = None,
        matter_id: Id | None = None,
        document_id: Id | None = None,
        ranges: Sequence[Range] | None = None,
        sizes: Sequence[int] | None = None,
        unit: str = PAGES,
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

    def __init__(self, header: Any, body: Any = None, **options: Any) -> None:
        super().__init__(header, body, **options)

    @property
    def body(self) -> Any:
        """What was chained to it, which Celery asks a chord for."""
        body = self.kwargs.get("body")
        return _NoBody() if body is None else body

    @body.setter
    def body(self, body: Any) -> None:
        self.kwargs["body"] = body

    def link(self, callback: Any) -> Any:
        """Run a task with the job's result once it is COMPLETED or PARTIAL."""
        return Signature.link(self, callback)

    def link_error(self, errback: Any) -> Any:
        """Call an errback once the job is FAILED."""
        return Signature.link_error(self, errback)


@Signature.register_type("tracked_task")
class tracked_task(tracked_group):
    """A single task that is tracked: ``progress.track(task.s(…))``. The job's result is the task's; what is chained to
    it gets that.
    """

    _shape = JobShape.TASK
    _name = "tracked_task"
    _unit = "steps"


def bind(find: Any) -> None:
    """Set how the primitives find the extension of an app."""
    tracked_chord._extension_of = staticmethod(find)


def _publish(send: Callable[[], Any], job_id: str, extension: Extension, app: Celery) -> None:
    """Send the canvas's messages, or leave that to the reconciler."""
    try:
        ignore_results_of_tracked(app)
        send()
    except SoftTimeLimitExceeded:
        raise  # of the task that publishes; as where it is killed (F15), the reconciler sends the rest
    except Exception as error:
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


def _identifier(canvas: str, name: str, value: Any, alias: str, named: Any) -> str | None:
    """An id as the rows hold it: text, or None. It may be given by either of two names."""
    texts = [_text(canvas, said, given) for said, given in ((name, value), (alias, named)) if given is not None]
    if len(set(texts)) > 1:
        raise InvalidCanvas(f"{name} and {alias} are two names of one thing, but are {texts[0]!r} and {texts[1]!r}.")
    return texts[0] if texts else None


def _text(canvas: str, name: str, value: Any) -> str:
    if isinstance(value, int | UUID) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise InvalidCanvas(
            f"The {name} of a {canvas} must be a string that is not empty (or a UUID, or a number), not {value!r};"
            " or leave it out."
        )
    if len(value) > _ID_LIMIT:
        raise InvalidCanvas(f"The {name} must have at most {_ID_LIMIT} characters, not {len(value)}.")
    return value


def _words(name: str, value: Any, *, limit: int = _MESSAGE_LIMIT) -> str:
    """Words of the user's for people."""
    if not isinstance(value, str) or not value.strip() or len(value) > limit:
        raise InvalidCanvas(f"{name} must be 1 to {limit} characters of text, not {value!r}")
    return value


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
        if not _is_task(member):
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


def _is_chain(signature: Any) -> bool:
    """Celery's ``chain`` makes objects of another class."""
    return getattr(signature, "subtask_type", None) == "chain"


def _is_task(signature: Any) -> bool:
    """Whether it is a single task, and no canvas."""
    return not isinstance(signature, group | chord | chain) and not signature.subtask_type


def _flat(steps: Any) -> list[Signature]:
    """The steps of a chain, which may be chains."""
    return [each for step in steps.tasks for each in (_flat(step) if _is_chain(step) else [step])]


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


def _range(index: int, given: Any) -> list[int]:
    """A range as a signature carries it: first and last, both inclusive."""
    if isinstance(given, range):
        if not given or abs(given.step) != 1:
            raise InvalidCanvas(f"Range {index} must be a range of step 1 that is not empty, not {given!r}.")
        return [min(given), max(given)]
    try:
        first, last = (whole(end) for end in given)
    except (TypeError, ValueError):
        raise InvalidCanvas(
            f"Range {index} must be two whole numbers, (first, last), both inclusive, not {given!r}. Where keys are"
            " something else, give sizes alone."
        ) from None
    if last < first:
        raise InvalidCanvas(f"Range {index} ends before it begins: ({first}, {last}).")
    if not (first >= -_LARGEST and last <= _LARGEST):
        raise InvalidCanvas(f"Range {index} ({first}, {last}) has a number that no database's integer holds.")
    return [first, last]


def _sizes(sizes: Sequence[int]) -> list[int]:
    """Sizes as a signature carries them: whole numbers from 1 on."""
    for index, size in enumerate(sizes):
        if isinstance(size, bool) or not hasattr(size, "__index__") or not 1 <= whole(size) <= _LARGEST:
            raise InvalidCanvas(f"The size of chunk {index} must be a whole number from 1 on, not {size!r}.")
    return [whole(size) for size in sizes]


def _chunks(ranges: Sequence[Sequence[int]] | None, sizes: Sequence[int] | None, count: int) -> list[Chunk]:
    sized: Sequence[int | None] = [None] * count if sizes is None else sizes
    if ranges is None:
        # A place of its own for each, as a page is.
        return [Chunk(index=at, page_start=at + 1, page_end=at + 1, size=size) for at, size in enumerate(sized)]
    ordered = sorted(range(count), key=lambda at: ranges[at][0])
    for before, at in pairwise(ordered):
        if ranges[at][0] <= ranges[before][1]:
            raise InvalidCanvas(
                f"Ranges {min(before, at)} and {max(before, at)} overlap: {tuple(ranges[before])} and"
                f" {tuple(ranges[at])}. What is in both would be counted twice. Both ends belong to a range."
            )
    return [
        Chunk(index=at, page_start=first, page_end=last, size=size)
        for at, ((first, last), size) in enumerate(zip(ranges, sized, strict=True))
    ]


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
