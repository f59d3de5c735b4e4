"""``tracked_chord``: a Celery chord whose rows are there before anything of it is published."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import redis.exceptions
from celery import Celery
from celery.canvas import Signature, chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded
from celery.result import AsyncResult
from celery.utils.functional import maybe_list
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.exceptions import OperationalError

from celery_progress_ext import ids
from celery_progress_ext.broadcast import Broadcaster, Subscription, job_channel
from celery_progress_ext.chunks import Chunk
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.exceptions import InvalidCanvas, NotPublished, ProgressError
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from celery_progress_ext.log import get_logger
from celery_progress_ext.publishing import PublishOnceGroup, ignore_results_of_tracked
from celery_progress_ext.recording import Recording
from celery_progress_ext.storage import job_changes
from celery_progress_ext.storage.job_changes import NewChunk, NewJob
from celery_progress_ext.storage.json import dumps, loads

logger = get_logger(__name__)

POLICIES = ("partial", "fail")
#: What `apply_async` and `set` may say of every message of the chord.
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
        "link_error",
    }
)
#: What publishing raises where the broker or the result backend is away, or can not take anything now.
OUTAGE_ERRORS = (
    OperationalError,
    OSError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ResponseError,  # out of memory, a replica that is read-only
)
#: How often `watch` looks where nothing is broadcast, or a broadcast was lost. Seconds.
_WATCH_SECONDS = 1.0


class Extension(Protocol):
    """What the canvas needs of ``CeleryProgress``."""

    @property
    def context(self) -> ProcessContext:
        """Settings, database and broadcaster."""

    @property
    def recording(self) -> Recording:
        """Records how a job ends."""

    def retry_failed(self, job_id: str) -> JobSnapshot:
        """Run again what failed."""

    def cancel(self, job_id: str) -> JobSnapshot:
        """Stop a job."""


class TrackedJob(AsyncResult):  # type: ignore[misc]
    """A published job. As an ``AsyncResult`` it is the body's: ``get()`` waits for what the body returns."""

    def __init__(self, job_id: str, extension: Extension, **options: Any) -> None:
        super().__init__(job_id, **options)
        self._extension = extension

    def __del__(self) -> None:
        """Nothing: Celery's own asks Redis to forget the result, and holds up its process while Redis is away."""

    def snapshot(self) -> JobSnapshot:
        """The whole truth about the job now."""
        return self._extension.context.jobs.snapshot(self.id)

    def watch(self, timeout: float | None = None) -> Iterator[JobSnapshot]:
        """Snapshots as they come, each newer than the last, to the terminal one.

        :param timeout: seconds after which to stop all the same; None to wait for the end.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        seen = -1
        news = _Wakeups(self._extension.context.broadcaster, job_channel(self.id))
        try:
            while True:
                snapshot = self.snapshot()
                if snapshot.version > seen:
                    seen = snapshot.version
                    yield snapshot
                if snapshot.status.terminal or (deadline is not None and time.monotonic() >= deadline):
                    return
                news.wait(_WATCH_SECONDS)
        finally:
            news.close()

    def retry_failed(self) -> JobSnapshot:
        """Run only the failed chunks again, and then the body.

        :raises IllegalTransition: unless the job is PARTIAL, FAILED or CANCELLED.
        """
        return self._extension.retry_failed(self.id)

    def cancel(self) -> JobSnapshot:
        """Stop what is queued or running, keep what is finished.

        :raises IllegalTransition: when the job is over.
        """
        return self._extension.cancel(self.id)


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
    :raises InvalidCanvas: for an empty header, members or a body that are not single tasks, ranges that do not
        fit, overlap or leave a gap, arguments that are not JSON.
    """

    _extension_of: Any = None

    def __init__(
        self,
        header: Iterable[Signature],
        body: Signature | None = None,
        *,
        matter_id: str | None = None,
        document_id: str | None = None,
        ranges: Sequence[tuple[int, int]] | None = None,
        unit: str = "pages",
        on_chunk_failure: str = "partial",
        metadata: Mapping[str, Any] | None = None,
        app: Celery | None = None,
        **options: Any,
    ) -> None:
        # A generator would be gone after it is counted; a group knows its tasks.
        header = header if isinstance(header, group | dict) else list(header)
        kwargs = options.pop("kwargs", None) or {"kwargs": {}}
        if matter_id is not None or "tracking" not in kwargs:
            if not matter_id or not document_id:
                raise InvalidCanvas("tracked_chord needs a matter_id and a document_id")
            kwargs = {
                **kwargs,
                "tracking": {
                    "matter_id": matter_id,
                    "document_id": document_id,
                    "ranges": None if ranges is None else [[int(first), int(last)] for first, last in ranges],
                    "unit": unit,
                    "on_chunk_failure": on_chunk_failure,
                    "metadata": dict(metadata or {}),
                },
            }
        super().__init__(header, body, kwargs=kwargs, app=app, **options)
        self.subtask_type = "tracked_chord"

    @property
    def tracking(self) -> dict[str, Any]:
        """What was said of the job when the canvas was made."""
        return dict(self.kwargs["tracking"])

    def freeze(self, _id: str | None = None, **options: Any) -> Any:
        """Give the job its id, once per application of a surrounding chain: a redelivered step then finds its job."""
        job_id = self.options.get("progress_job_id") or ids.new_job_id()
        self.options["progress_job_id"] = job_id
        return super().freeze(job_id, **options)

    def apply_async(self, args: Any = (), kwargs: Any = None, **options: Any) -> TrackedJob:
        """Insert the rows, then publish the chord.

        From the rows on the job exists. Where the broker or the result backend is away, the job is returned all the
        same, with the warning ``job_not_sent``: what was not sent is overdue a lease later, and the reconciler sends
        it once they are back. Who published again would have two jobs.

        :raises InvalidCanvas: as the class says.
        :raises DatabaseNotMigrated: when the tables are missing.
        :raises DatabaseAway: when the database does not answer; there is no job then.
        :raises NotPublished: when the messages can not be sent at all; the job is FAILED then.
        """
        app = self.app
        # The guard is put on an app's tasks when it is finalized; eager tasks run before anything else does that.
        app.finalize(auto=True)
        extension: Extension = type(self)._extension_of(app)
        options = {**self.options, **options}
        job_id = options.pop("progress_job_id", None) or ids.new_job_id()
        # One copy of the header at a time: the rows hold each signature as JSON, until they are committed, and what is
        # published is cloned from the members again. Celery makes a copy of its own.
        members = _members(self.tasks)
        body, followers = _body(self.body, app)
        for callback in (*followers, *_chain_callbacks(options, app), *(maybe_list(options.pop("link", None)) or ())):
            body.link(callback)
        # In the stored signatures too, so that a chunk sent again goes the same way. The results are always stored:
        # what no receiver told is asked of the backend, and a backend that polls waits for them for ever (F26).
        sent_with = {name: value for name, value in options.items() if name in _MESSAGE_OPTIONS}
        sent_with["ignore_result"] = False
        body.options.update(sent_with)
        header = _Header(members, args, kwargs, sent_with)
        delay = {name: options[name] for name in ("countdown", "eta") if options.get(name) is not None}
        create = partial(
            job_changes.create,
            new=_new_job(job_id, self.tracking, header, body),
            due=extension.context.settings.lease_seconds + _seconds_to(delay, app),
        )
        created = extension.context.database.write(create)
        del create
        job = TrackedJob(job_id, extension, app=app)
        if created is None:
            logger.info("job_exists", job_id=job_id)
            return job
        logger.info("job_created", job_id=job_id, matter_id=self.tracking["matter_id"], chunks=len(header))
        try:
            extension.context.broadcaster.publish(extension.context.snapshots.of(created))
        except Exception as error:  # the database went away behind the commit; the job is there, and the tick tells it
            logger.warning("job_not_told", job_id=job_id, error=f"{type(error).__name__}: {error}")
        plain = chord([], _with_id(body, job_id), app=app)
        plain.tasks = PublishOnceGroup(
            [_with_id(signature, ids.chunk_task_id(job_id, index, 1)) for index, signature in enumerate(header)],
            app=app,
        )
        _publish(plain, job_id, extension, **delay)
        return job

    def __call__(self, body: Signature | None = None, **options: Any) -> TrackedJob:
        return self.apply_async(**options)


def bind(find: Any) -> None:
    """Tell the primitive how to find the extension of an app."""
    tracked_chord._extension_of = staticmethod(find)


def _publish(plain: chord, job_id: str, extension: Extension, **delay: Any) -> None:
    """Send the chord's messages, or leave that to the reconciler."""
    try:
        ignore_results_of_tracked(plain.app)
        plain.apply_async(task_id=job_id, root_id=job_id, **delay)
    except SoftTimeLimitExceeded:
        raise  # of the task that publishes; as where it is killed (F15), the reconciler sends the rest
    except Exception as error:
        if plain.app.conf.task_always_eager:
            raise  # a task's own
        if (away := outage_of(error)) is not None:
            advice = "The job exists: do not publish it again. The reconciler sends what was not sent."
            logger.warning("job_not_sent", job_id=job_id, error=f"{type(away).__name__}: {away}", advice=advice)
            return
        # A queue, a serializer or a result backend that can not be used: another try would tell the same.
        reason = f"{type(error).__name__}: {error}"
        verdict = f"The job could not be published: {reason}"
        ended = extension.context.database.write(
            lambda conn: job_changes.end(conn, job_id, JobStatus.FAILED, error=verdict)
        )
        if ended is not None:
            extension.recording.bodies.run_ended(ended)
        raise NotPublished(f"Job {job_id} could not be published, and is FAILED: {reason}", job_id=job_id) from error


def outage_of(error: BaseException | None) -> BaseException | None:
    """The error of a server that is away, which Celery may have wrapped: a lost Redis becomes a RuntimeError."""
    while error is not None and not isinstance(error, OUTAGE_ERRORS):
        error = error.__cause__
    return error


def _members(tasks: Any) -> list[Signature]:
    members = list(tasks.tasks if isinstance(tasks, group) else tasks)
    if not members:
        raise InvalidCanvas("The header is empty: give tracked_chord at least one task signature.")
    for index, member in enumerate(members):
        if not isinstance(member, Signature):
            members[index] = member = Signature.from_dict(member)
        if isinstance(member, group | chord | chain) or member.subtask_type:
            raise InvalidCanvas(
                f"Header member {index} is a {member.subtask_type or type(member).__name__}, not a task: a chunk"
                " is one task. Call the steps from one task, or chain them after the tracked chord."
            )
    return members


class _Header:
    """The chunks' signatures as they are sent, each cloned from its member when it is asked for."""

    def __init__(self, members: Sequence[Signature], args: Any, kwargs: Any, options: Mapping[str, Any]) -> None:
        self._members = members
        self._args = args
        self._kwargs = kwargs
        self._options = options

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Signature]:
        for member in self._members:
            yield member.clone(self._args, self._kwargs).set(**self._options)


def _body(body: Any, app: Celery) -> tuple[Signature, list[Signature]]:
    """The task that merges, and what follows it in a chain."""
    if body is None:
        raise InvalidCanvas("tracked_chord needs a body: the task that merges the chunks' results.")
    if isinstance(body, chain) or getattr(body, "subtask_type", None) == "chain":
        first, *rest = body.tasks
        merge, _ = _body(first, app)
        followers = [] if not rest else [rest[0].clone() if len(rest) == 1 else chain(*rest, app=app)]
        return merge, followers
    if isinstance(body, group | chord) or body.subtask_type:
        raise InvalidCanvas(
            f"The body is a {body.subtask_type or type(body).__name__}, not a task: give the task that merges, and"
            " chain the rest: tracked_chord(header, merge.s(), …) | rest."
        )
    merge = body.clone()
    merge.options.pop("task_id", None)
    return merge, []


def _chain_callbacks(options: dict[str, Any], app: Celery) -> list[Signature]:
    """What a surrounding chain has left to run (Celery keeps it reversed), as callbacks of the body."""
    rest = options.pop("chain", None)
    if not rest:
        return []
    steps = [Signature.from_dict(dict(step), app=app) for step in reversed(rest)]
    return [steps[0] if len(steps) == 1 else chain(*steps, app=app)]


def _new_job(job_id: str, tracking: Mapping[str, Any], header: _Header, body: Signature) -> NewJob:
    if tracking["on_chunk_failure"] not in POLICIES:
        raise InvalidCanvas(f"on_chunk_failure must be one of {POLICIES}, not {tracking['on_chunk_failure']!r}")
    chunks = _chunks(tracking["ranges"], len(header))
    return NewJob(
        id=job_id,
        matter_id=tracking["matter_id"],
        document_id=tracking["document_id"],
        unit=tracking["unit"],
        on_chunk_failure=tracking["on_chunk_failure"],
        metadata=_stored(tracking["metadata"], "metadata"),
        body_task_id=ids.body_task_id(job_id, 1),
        body_signature=_stored(body, "the body's arguments"),
        chunks=[
            NewChunk(
                id=ids.chunk_id(job_id, chunk.index),
                chunk=chunk,
                task_id=ids.chunk_task_id(job_id, chunk.index, 1),
                signature=_stored(signature, f"the arguments of chunk {chunk.index}"),
            )
            for chunk, signature in zip(chunks, header, strict=True)
        ],
    )


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


class _Wakeups:
    """Waits for a channel's next message; without the broadcaster it is a pause, and the rows are looked at anyway."""

    def __init__(self, broadcaster: Broadcaster, channel: str) -> None:
        self._broadcaster = broadcaster
        self._channel = channel
        self._subscription: Subscription | None = None

    def wait(self, seconds: float) -> None:
        """Return at the next message, or after ``seconds``; at once when the subscription is new."""
        try:
            if self._subscription is None:
                self._subscription = self._broadcaster.subscribe()
                self._subscription.add(self._channel)
            else:
                self._subscription.get(seconds)
        except ProgressError:
            self.close()
            time.sleep(seconds)

    def close(self) -> None:
        """Give the connection back."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()
