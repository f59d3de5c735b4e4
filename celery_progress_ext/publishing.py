"""Everything that goes to the broker: the chord for the first time, chunks and bodies again, and what is revoked.

Nothing of it is subscribed to. Celery subscribes to the result of every task that it publishes, and its group keeps an
AsyncResult of each part, for a barrier. A publisher that never gets these results, such as a web application, would
keep them for as long as it lives; and for a header of thousands they are a third of what publishing costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Self

import redis.exceptions
from celery import Celery
from celery.canvas import Signature, group
from celery.result import AsyncResult
from celery.utils.functional import regen
from kombu.exceptions import OperationalError

from celery_progress_ext import ids, lanes
from celery_progress_ext.config import Settings
from celery_progress_ext.eager import EagerJobs
from celery_progress_ext.exceptions import ProgressError
from celery_progress_ext.lanes import JobQueues
from celery_progress_ext.log import get_logger
from celery_progress_ext.storage import Database, lookups, sending
from celery_progress_ext.storage.body_changes import BodyDispatch
from celery_progress_ext.storage.sending import SentChunk
from celery_progress_ext.storage.workers import CurrentRoster

logger = get_logger(__name__)

#: Messages that are published between two notes of it.
_BATCH = 200

#: States of a Celery result that will not change any more by themselves.
SUCCESS, FAILURE = "SUCCESS", "FAILURE"


#: What publishing raises where the broker or the result backend is away, or cannot take anything now.
OUTAGE_ERRORS = (
    OperationalError,
    OSError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ResponseError,  # out of memory, a replica that is read-only
)


def outage_of(error: BaseException | None) -> BaseException | None:
    """The error of a server that is away, which Celery may have wrapped: a lost Redis becomes a RuntimeError."""
    while error is not None and not isinstance(error, OUTAGE_ERRORS):
        error = error.__cause__
    return error


class ResultLost(ProgressError):
    """A finished chunk's result is in neither the rows nor the result backend; return small references from chunks."""


class QueueKey(NamedTuple):
    """Messages of one key are taken in the order in which they were sent: a queue, or a priority of a queue."""

    queue: str
    exchange: str
    routing_key: str
    priority: int | None


#: Options of a task, its signature or a route that decide where a message goes.
_WHERE = ("queue", "exchange", "routing_key", "priority")


class Publisher:
    """Publishes what the rows say is due, and asks Celery what it knows."""

    def __init__(self, app: Celery, database: Database, settings: Settings) -> None:
        self._app = app
        self._database = database
        self._settings = settings
        self._roster = CurrentRoster(database)
        #: Jobs that run in this process; nothing of them is published.
        self.eager = EagerJobs()

    @property
    def app(self) -> Celery:
        """The Celery app."""
        return self._app

    def unsent_chunks(self, job_id: str) -> int:
        """Publish the chunks of a job that the broker has not taken yet; how many.

        The caller holds the right to it (``sending.take_unsent``, or has just made them so).

        :raises Exception: what publishing raises; what was not sent is noted as such, and costs neither a try nor
            patience.
        """
        count, after = 0, -1
        job = lookups.job(self._database, job_id)
        queues = JobQueues.of(None if job is None else job.queues)
        with self.marker(job_id) as marker:
            while batch := sending.unsent_chunks(self._database, job_id, after=after, limit=_BATCH):
                for each in batch:
                    self._chunk(each, queues)
                    marker.sent(each.chunk.id, each.chunk.task_id)
                count, after = count + len(batch), batch[-1].chunk.chunk_index
        return count

    def marker(self, job_id: str, *, delay: float = 0.0) -> SentMarker:
        """What notes which of a job's messages the broker took. A context manager.

        :param delay: seconds that the messages may not be started before.
        """
        return SentMarker(self._database, job_id, lease=self._settings.lease_seconds, delay=delay)

    def choose_lane(self, signature: Signature, lane: str | None) -> Signature:
        """The signature of a first message, in its lane while a worker listens to that."""
        if lane is None:
            return signature
        options = lanes.chosen(signature.options, lane, self._roster.get())
        return signature if options == signature.options else signature.clone().set(**options)

    def stranded(self, signature: Mapping[str, Any], lane: str | None) -> bool:
        """Whether a message lies in a queue that nobody listens to, and there is another way to a worker."""
        return self._rescued(signature, lane) is not None

    def _rescued(self, signature: Mapping[str, Any], lane: str | None) -> dict[str, Any] | None:
        """The signature by the way that leads to a worker; None where it leads there, or none does."""
        if lane is None:
            return None
        options = lanes.rescued(
            signature.get("options") or {},
            lane,
            self._roster.get(),
            queue_of=lambda options: self.queue_of({**signature, "options": options}),
            silence=self._settings.lease_seconds,
        )
        return None if options is None else {**signature, "options": options}

    def _reroute(
        self, job_id: str, way: Mapping[str, Any], queues: JobQueues, *, task: tuple[str, str] | None = None
    ) -> None:
        """Note the way that a message is about to go; ``task`` is a chunk's id and its newest task's, None the body."""
        self._database.write(
            lambda conn: sending.reroute(conn, job_id, task=task, signature=way, queues=queues.to_dict())
        )
        logger.info("rerouted", job_id=job_id, queue=self.queue_of(way))

    def _chunk(self, sent: SentChunk, queues: JobQueues) -> None:
        chunk, way = sent.chunk, sent.signature
        if (rescued := self._rescued(way, queues.chunk_lane)) is not None:
            way = rescued
            self._reroute(chunk.job_id, way, replace(queues, chunks=self.queue_of(way)), task=(chunk.id, chunk.task_id))
        signature = Signature.from_dict(dict(way), app=self._app)
        ignore_results_of_tracked(self._app)
        wait = sent.due_in - self._settings.lease_seconds
        delay = {"countdown": wait} if wait > 1.0 else {}
        signature.apply_async(task_id=chunk.task_id, root_id=chunk.job_id, **delay)
        logger.info("chunk_dispatched", job_id=chunk.job_id, chunk_index=chunk.chunk_index, task_id=chunk.task_id)

    def body(self, due: BodyDispatch) -> None:
        """Publish the body with the results of the completed chunks, in chunk order.

        :raises ResultLost: when a result is nowhere to be had.
        """
        job = due.job
        # The first dispatch is Celery's chord's own, so ours are numbered from 2.
        task_id = ids.body_task_id(job.id, job.body_dispatches + 1)
        way, queues = due.signature, JobQueues.of(job.queues)
        if (rescued := self._rescued(way, queues.body_lane)) is not None:
            way = rescued
            self._reroute(job.id, way, replace(queues, body=self.queue_of(way)))
        signature = Signature.from_dict(dict(way), app=self._app)
        results = self.results(job.id)
        ignore_results_of_tracked(self._app)
        signature.apply_async((results,), task_id=task_id, root_id=job.id)
        logger.info("body_dispatched", job_id=job.id, task_id=task_id)

    def results(self, job_id: str) -> list[Any]:
        """What the completed chunks returned, in chunk order."""
        return [
            kept[0] if kept is not None else self._backend_result(index, task_id)
            for index, task_id, kept in lookups.results(self._database, job_id)
        ]

    def result(self, chunk_id: str, task_id: str) -> Any:
        """What a completed chunk returned; None where it is nowhere to be had."""
        kept = lookups.kept_result(self._database, chunk_id)
        return kept[0] if kept is not None else self.outcome(task_id)[1]

    def outcome(self, task_id: str) -> tuple[str, Any]:
        """The state and result of a task as the result backend knows them; ``PENDING`` for what it does not know."""
        task = ids.parse(task_id)
        if task is not None and task.job_id in self.eager:
            kept = self.eager.meta(task_id) or {}
            return str(kept.get("status", "PENDING")), kept.get("result")
        # Not through an AsyncResult, whose `__del__` goes to Redis once more.
        meta = self._app.backend.get_task_meta(task_id)
        return str(meta.get("status", "PENDING")), meta.get("result")

    def waiting(self, signature: Mapping[str, Any]) -> int | None:
        """How many messages wait in the queue that a chunk goes to; None where the broker does not say."""
        queue = self.queue_of(signature)
        try:
            with self._app.connection_for_write() as connection, connection.channel() as channel:
                return int(channel.queue_declare(queue=queue, passive=True).message_count)
        except (OSError, *self._app.connection_for_write().channel_errors) as error:
            # Redis forgets an empty queue, and kombu spells the code as text.
            if str(getattr(error, "reply_code", "")) == "404":
                return 0
            logger.warning("queue_depth_unknown", queue=queue, error=type(error).__name__)
            return None

    def queue_of(self, signature: Mapping[str, Any]) -> str:
        """The name of the queue that a chunk's messages go to.

        :raises celery.exceptions.QueueNotFound: a KeyError, for a queue that is unknown here.
        """
        return self.queue_key_of(signature).queue

    def queue_key(self, signature: Mapping[str, Any]) -> QueueKey | None:
        """Where a chunk's messages go to; None for a queue that is unknown here."""
        try:
            return self.queue_key_of(signature)
        except KeyError:  # QueueNotFound is one
            return None

    def queue_key_of(self, signature: Mapping[str, Any]) -> QueueKey:
        """As Celery finds it, from what the task, its signature and the routes say.

        :raises celery.exceptions.QueueNotFound: a KeyError, for a queue that is unknown here.
        """
        task = self._app.tasks.get(signature["task"])
        said = {**{name: getattr(task, name, None) for name in _WHERE}, **(signature.get("options") or {})}
        route = self._app.amqp.router.route(
            {name: said[name] for name in _WHERE if said.get(name) is not None},
            signature["task"],
            signature.get("args") or (),
            signature.get("kwargs") or {},
        )
        queue, exchange = (getattr(route.get(name), "name", route.get(name)) for name in ("queue", "exchange"))
        return QueueKey(
            str(queue or self._app.conf.task_default_queue),
            str(exchange or ""),
            str(route.get("routing_key") or ""),
            route.get("priority", self._app.conf.task_default_priority),
        )

    def revoke(self, task_ids: list[str]) -> None:
        """Stop tasks, queued or running; best effort, the rows are the guarantee. Never raises."""
        if not task_ids or task_ids[0].partition(".")[0] in self.eager:
            return
        try:
            self._app.control.revoke(task_ids, terminate=True)
        except Exception as error:
            logger.warning("revoke_failed", tasks=len(task_ids), error=f"{type(error).__name__}: {error}")

    def _backend_result(self, index: int, task_id: str) -> Any:
        state, result = self.outcome(task_id)
        if state != SUCCESS:
            raise ResultLost(
                f"The result of chunk {index + 1} is gone; it was too large to keep in its row."
                " Return a small reference from the chunk's task, or raise result_expires."
            )
        return result


class SentMarker:
    """Notes in the rows what the broker took, a batch at a time: only what was sent can be lost, and what was not is
    simply sent. While it is open, its sender is taken to be alive.
    """

    def __init__(self, database: Database, job_id: str, *, lease: float, delay: float) -> None:
        self._database = database
        self._job_id = job_id
        self._lease = lease
        self._delay = delay
        self._tasks: list[tuple[str, str]] = []
        self._noted_at = time.monotonic()

    def sent(self, chunk_id: str, task_id: str) -> None:
        """The broker took a message."""
        self._tasks.append((chunk_id, task_id))
        if len(self._tasks) >= _BATCH or time.monotonic() - self._noted_at > self._lease / 4:
            self._note(last=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._note(last=True)

    def _note(self, *, last: bool) -> None:
        tasks, self._tasks = self._tasks, []
        self._noted_at = time.monotonic()
        write = partial(
            sending.mark_sent,
            job_id=self._job_id,
            tasks=tasks,
            due=self._lease + self._delay,
            lease=self._lease,
            last=last,
        )
        try:
            self._database.write(write)
        except Exception as error:
            # The reconciler sends them once more, under another number: a second message ends before the user's code.
            logger.warning("sent_not_noted", job_id=self._job_id, error=f"{type(error).__name__}: {error}")


class PublishOnceGroup(group):  # type: ignore[misc]
    """A header that is published exactly once, by its creator, so its members need not be cloned.

    ``on_sent`` is called with each member's task id, once the broker took it.
    """

    on_sent: Callable[[str], None] | None = None

    def clone(self, *args: Any, **kwargs: Any) -> Self:
        """Itself, where a chord would begin with a copy."""
        return self

    def _freeze_group_tasks(self, *args: Any, **kwargs: Any) -> tuple[str, Any]:
        """Celery's, with results that are made when they are asked for, by a backend that polls for the chord's end."""
        group_id, _ = super()._freeze_group_tasks(*args, **kwargs)
        return group_id, regen(self.app.AsyncResult(part.id) for part in self.tasks)

    def _apply_tasks(
        self, tasks: Any, producer: Any = None, app: Celery | None = None, p: Any = None, **options: Any
    ) -> Iterator[AsyncResult]:
        """Celery's, without the barrier ``p``, by which each part's result is waited for."""
        for part in super()._apply_tasks(tasks, producer, app, None, **options):
            if self.on_sent is not None:
                self.on_sent(part.id)
            yield part


_MARK = "_celery_progress_unawaited"


def ignore_results_of_tracked(app: Celery) -> None:
    """From now on nothing that ``app`` publishes under a tracked task's id is subscribed to.

    Celery has no option for it; `denied_join_result` would forbid every other thread to get a result meanwhile. A
    caller that asks for a result, as ``TrackedJob.get`` does, subscribes then.
    """
    # An app has a backend a thread, unless that is thread-safe.
    backend = app.backend
    on_task_call = backend.on_task_call
    if hasattr(on_task_call, _MARK):
        return

    def unless_tracked(producer: Any, task_id: str) -> Any:
        return on_task_call(producer, task_id) if ids.parse(task_id) is None else None

    setattr(unless_tracked, _MARK, True)
    backend.on_task_call = unless_tracked
