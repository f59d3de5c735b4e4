"""``CeleryProgress``: the one object that a Celery project sets up."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

from celery import Celery, Task, signals
from celery.canvas import Signature

from celery_progress_ext import canvas, context, ids
from celery_progress_ext.broadcast import Broadcaster
from celery_progress_ext.config import TICK, Settings
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.eager_runs import EagerRunner
from celery_progress_ext.exceptions import NotConfigured
from celery_progress_ext.jobs import JobSnapshot
from celery_progress_ext.log import get_logger
from celery_progress_ext.operations import Operations
from celery_progress_ext.publishing import Publisher
from celery_progress_ext.recording import Recording
from celery_progress_ext.recovery.beat_tick import BeatTick, task_class
from celery_progress_ext.recovery.reconciler import Reconciler
from celery_progress_ext.storage import Database, lookups
from celery_progress_ext.storage.audit import Drift, audit
from celery_progress_ext.storage.job_changes import called_off
from celery_progress_ext.story import JobTrackingService, OCRChunkService
from celery_progress_ext.tokens import DEFAULT_SECONDS, Tokens
from celery_progress_ext.tracked_job import TrackedJob
from celery_progress_ext.worker import admission, prefork, receivers
from celery_progress_ext.worker.config_checks import advise
from celery_progress_ext.worker.heartbeat import Heartbeats, Work
from celery_progress_ext.worker.presence import Presence
from celery_progress_ext.worker.reporting import Reporter

logger = get_logger(__name__)

_ATTRIBUTE = "celery_progress"


class CeleryProgress:
    """Tracks the tracked chords of a Celery app.

    .. code-block:: python

        app = Celery("proj")
        progress = CeleryProgress(app)   # or CeleryProgress() and init_app(app) later

    It connects receivers of Celery's signals, guards the app's tasks, and adds its beat task. Settings are read when
    first needed, so the app may be configured after it.
    """

    def __init__(self, app: Celery | None = None) -> None:
        self._app: Celery | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Celery) -> None:
        """Set up tracking for ``app``; a second call for the same app changes nothing."""
        if getattr(app, _ATTRIBUTE, None) is self:
            return
        self._app = app
        setattr(app, _ATTRIBUTE, self)
        context.use(self.context)
        canvas.bind(CeleryProgress.of)
        receivers.connect(_extension_of)
        base = task_class(lambda: self.beat_tick)
        app.task(name=TICK, base=base, ignore_result=True, bind=True, shared=False)(_tick)
        app.on_after_finalize.connect(self._on_finalized, weak=False, dispatch_uid=f"{_ATTRIBUTE}.{id(self)}")
        # Modules that a worker imports after the app is finalized bring tasks of their own.
        signals.worker_init.connect(_on_worker_init, weak=False, dispatch_uid=f"{_ATTRIBUTE}.worker_init")
        # A child of a prefork pool, and the one process of every other pool.
        for each in (signals.worker_process_shutdown, signals.worker_shutdown):
            each.connect(self._on_shutdown, weak=False, dispatch_uid=f"{_ATTRIBUTE}.shutdown.{id(self)}")
        signals.worker_ready.connect(_on_worker_ready, weak=False, dispatch_uid=f"{_ATTRIBUTE}.worker_ready")
        signals.beat_init.connect(_on_beat_init, weak=False, dispatch_uid=f"{_ATTRIBUTE}.beat_init")

    @staticmethod
    def of(app: Celery) -> CeleryProgress:
        """The extension of an app.

        :raises NotConfigured: where the app has none.
        """
        found = _extension_of(app)
        if found is None:
            raise NotConfigured
        return found

    @property
    def app(self) -> Celery:
        """The Celery app."""
        if self._app is None:
            raise NotConfigured
        return self._app

    @cached_property
    def context(self) -> ProcessContext:
        """Settings, database, broadcaster and snapshots of this process."""
        return ProcessContext(lambda: self.app.conf)

    @property
    def settings(self) -> Settings:
        """The settings, read once."""
        return self.context.settings

    @property
    def lease_seconds(self) -> float:
        """How long a sign of life lasts."""
        return self.settings.lease_seconds

    @property
    def database(self) -> Database:
        """Where the rows are."""
        return self.context.database

    @property
    def broadcaster(self) -> Broadcaster:
        """Where snapshots go."""
        return self.context.broadcaster

    @cached_property
    def jobs(self) -> JobTrackingService:
        """Reads jobs."""
        return JobTrackingService(self.database, self.context.snapshots)

    @cached_property
    def chunks(self) -> OCRChunkService:
        """Reads chunks' counts."""
        return OCRChunkService(self.database, self.context.snapshots)

    @cached_property
    def publisher(self) -> Publisher:
        """Publishes chunks and bodies again."""
        return Publisher(self.app, self.database, self.settings)

    @cached_property
    def recording(self) -> Recording:
        """Records what tasks report."""
        return Recording(self.context, self.publisher)

    @cached_property
    def eager_runner(self) -> EagerRunner:
        """Runs jobs in this process."""
        return EagerRunner(self.context, self.recording, self.publisher)

    @cached_property
    def heartbeats(self) -> Heartbeats:
        """The tasks at work in this process."""
        return Heartbeats(self.recording, self.settings)

    @cached_property
    def reconciler(self) -> Reconciler:
        """Finishes what was lost."""
        return Reconciler(self.context, self.recording, self.publisher)

    @cached_property
    def beat_tick(self) -> BeatTick:
        """Runs the reconciler where beat runs."""
        # It ticks by itself later than beat would have woken it.
        return BeatTick(self.tick, lambda: 2 * self.settings.tick_seconds)

    def tick(self) -> dict[str, int]:
        """What beat's task does: heal what was lost, and send a sign of life of every running job."""
        done = self.reconciler.tick()
        with suppress(Exception):  # of Redis, which is away; the next tick leaves one
            self.context.tick_trace.leave()
        return done

    @cached_property
    def _operations(self) -> Operations:
        return Operations(self.context, self.recording, self.publisher, self.eager_runner)

    @cached_property
    def _reporter(self) -> Reporter:
        return Reporter(self.heartbeats)

    def report(self, task: Task, *, done: int, total: int | None = None) -> None:
        """Report how many units of a task's chunk (or of the merge) are done; cheap, call it after each.

        Outside a tracked job it does nothing, so a task can also be called by itself.

        :param done: units (pages, rows) done in this run of the task. More than the chunk has count as all of them;
            fewer than before take nothing back from the bar.
        :param total: of how many. Where the job has neither ranges nor sizes, that is the chunk's size; where it has,
            and says otherwise, ``done`` of it is a share of the chunk.
        :raises Superseded: a ``celery.exceptions.Ignore``, when the job was cancelled or another attempt took over;
            let it pass.
        """
        self._reporter.report(task, done=done, total=total)

    def reservation(self, task: Task, *, page: int, message: str) -> None:
        """Report a unit (a page, a row) of a task's chunk that could not be wholly read or done: the chunk may still
        succeed, and its job ends PARTIAL and names it. A retry runs the chunk again. Outside a tracked chunk it does
        nothing.

        :param page: its number, as the chunk's range counts.
        :param message: a sentence for people, such as "Page 3 could not be rendered: …".
        :raises Superseded: as :meth:`report` does.
        """
        self._reporter.reservation(task, page=page, message=message)

    def finish(self, task: Task, *, result: Any, connection: Any) -> None:
        """A body ends its job in the transaction that makes its own effect, so that both take effect, or neither.

        Return the same ``result`` from the task afterwards. The job's end is announced, and what follows it is
        published, once the task returns; if its process dies right after the commit, the next tick does so.

        :param connection: SQLAlchemy's, or a DB-API one of the driver that the library uses, to the database of
            ``progress_database_url``, in the user's open transaction. Commit soon: on SQLite nothing else is written
            meanwhile.
        :raises Superseded: when the job was cancelled or another attempt took over: roll back.
        """
        self._reporter.finish(task, result=result, connection=connection)

    def attempt(self, task: Task) -> int:
        """This run's attempt, the fencing token for what it writes; 0 for a first run that is not recorded yet."""
        work: Work | None = self.heartbeats.get(task.request.id)
        return (work.attempt or 0) if work else 0

    def run(self, task: Task) -> int:
        """The run of the job that a task works for: 1, and one more with each retry.

        What an earlier attempt of the same run has stored, a chunk need not do again.

        :raises DatabaseAway: for a task that was sent again, where the database does not answer.
        """
        found = ids.parse(task.request.id)
        if found is None or (found.chunk_index is not None and found.dispatch == 1):
            # A retry sends chunks under new ids, so this one is of the first run.
            return 1
        job = lookups.job(self.database, found.job_id)
        return 1 if job is None else job.run

    def track(
        self,
        task: Signature,
        *,
        owner: canvas.Id | None = None,
        subject: canvas.Id | None = None,
        size: int | None = None,
        unit: str = "steps",
        metadata: Mapping[str, Any] | None = None,
        kind: str | None = None,
        lane: str | None = None,
        title: str | None = None,
    ) -> canvas.tracked_task:
        """A single task as a job of its own: ``progress.track(task.s(…)).apply_async()`` gives its
        :class:`TrackedJob`. What the task reports moves its bar, it is run again where it is lost, and its result is
        the job's.

        :param task: its signature.
        :param size: how many units it has; else what it reports as the total.
        :param unit: what is counted, in messages: "rows".
        :raises InvalidCanvas: for a canvas, or arguments that are not JSON. The other parameters are those of
            :class:`tracked_chord`.
        """
        return canvas.tracked_task(
            [task],
            owner=owner,
            subject=subject,
            sizes=None if size is None else [size],
            unit=unit,
            metadata=metadata,
            kind=kind,
            lane=lane,
            title=title,
            app=self.app,
        )

    def job(self, job_id: str, *, wait: float = 0.0) -> TrackedJob:
        """The handle of a job that was published before, here or elsewhere.

        :param wait: seconds for which it may not be there yet: a task before it in a chain publishes it.
        """
        return TrackedJob(job_id, self, wait=wait, app=self.app)

    def token(
        self, job: TrackedJob | str, *, expires: float | timedelta = DEFAULT_SECONDS, issuer: str | None = None
    ) -> str:
        """A token with which a browser or a program reads one job, and nothing else, until it expires.

        :param job: the job or its id; it need not be there yet.
        :param expires: seconds from now, or a timedelta.
        :param issuer: an id of the credential that it is made with, for applications that refuse it once that ends.
        :raises InvalidSetting: without ``progress_token_secrets``.
        """
        job_id = job if isinstance(job, str) else job.id
        return self.tokens.for_job(job_id, expires=expires, issuer=issuer)

    def matter_token(
        self, matter_id: str, *, expires: float | timedelta = DEFAULT_SECONDS, issuer: str | None = None
    ) -> str:
        """A token for all jobs of a matter, as :meth:`token`."""
        return self.tokens.for_matter(matter_id, expires=expires, issuer=issuer)

    @cached_property
    def tokens(self) -> Tokens:
        """Makes and reads tokens."""
        return Tokens(self.settings.token_secrets or ())

    def watch(self, job_id: str) -> Iterator[JobSnapshot]:
        """Snapshots of a job as they come, to the terminal one."""
        return self.job(job_id).watch()

    def bar(
        self, job: TrackedJob | str, *, using: Literal["tqdm", "rich"] | None = None, timeout: float | None = None
    ) -> JobSnapshot:
        """Follow a job with a bar, in a notebook or a terminal, to its end; its last snapshot.

        :param job: the job or its id.
        :param using: what draws it; tqdm where it is installed, else rich.
        :param timeout: seconds after which to stop all the same; None to wait for the end.
        :raises JobNotFound: when there is no such job.
        """
        from celery_progress_ext import bars

        handle = self.job(job) if isinstance(job, str) else job
        return bars.follow(handle.watch(timeout), using)

    def retry_failed(self, job_id: str) -> JobSnapshot:
        """Run only what did not finish again, and then the body.

        :raises JobNotFound: when there is no such job.
        :raises IllegalTransition: unless the job is PARTIAL, FAILED or CANCELLED.
        """
        return self._operations.retry_failed(job_id)

    def cancel(self, job_id: str) -> JobSnapshot:
        """Stop what is queued or running, keep what is finished.

        :raises JobNotFound: when there is no such job.
        :raises IllegalTransition: when the job is over.
        """
        return self._operations.cancel(job_id)

    def delete(self, job_id: str) -> None:
        """Remove a job that is over, with its chunks and its history, and send ``jobs_forgotten``.

        :raises JobNotFound: when there is no such job.
        :raises IllegalTransition: while it is at work; cancel it first.
        """
        self._operations.delete(job_id)

    def migrate(self) -> str:
        """Make or upgrade the tables; the revision they are at then."""
        from celery_progress_ext.storage.migrate import migrate

        return migrate(self.database)

    def audit(self, job_id: str | None = None) -> list[Drift]:
        """Recount one job, or every job, from its chunk rows and its history; what differs, nothing where all is true.

        :raises JobNotFound: when ``job_id`` is given and there is no such job.
        """
        return audit(self.database, job_id)

    def estimate_scores(self, *, limit: int = 1_000) -> list[dict[str, Any]]:
        """How right the finish times have been, for each kind of jobs over its last ones (at most 200).

        :param limit: at most so many kinds.
        :returns: one ``{"kind", "jobs", "phases"}`` a kind, the one that learned last first; ``phases`` has for each
            phase of a job ``{"phase", "promises", "error", "held", "width"}``: the median of |promised - actual| over
            the actual remaining time, the share of 80 % intervals that held the end, and the median of their width over
            the remaining time.
        """
        return [
            {
                "kind": name,
                "jobs": len(kind.jobs),
                "phases": [
                    {
                        "phase": phase.value,
                        "promises": score.promises,
                        "error": round(score.error, 3),
                        "held": round(score.held, 3),
                        "width": round(score.width, 3),
                    }
                    for phase, score in kind.scores().items()
                ],
            }
            for name, kind in self.context.snapshots.kinds.all(limit=limit).items()
        ]

    def _preload(self) -> None:
        """Make what a worker's children use before they are forked from it; nothing of it is a connection."""
        _ = self.database, self.broadcaster

    def _on_finalized(self, sender: Celery, **_: Any) -> None:
        admission.install(sender, receivers.claim_or_refuse, receivers.hand_over)
        seconds = self.settings.tick_seconds
        # `expires`: a backlog of ticks that waited for a worker is worth one tick (F24).
        sender.add_periodic_task(seconds, sender.tasks[TICK].s(), name=TICK, expires=seconds)

    def _on_shutdown(self, **_: Any) -> None:
        if "recording" in self.__dict__:
            self.recording.flush()


def _tick(self: Task) -> dict[str, int]:
    """Beat's task."""
    return CeleryProgress.of(self.app).tick()


def _extension_of(app: Celery) -> CeleryProgress | None:
    found = getattr(app, _ATTRIBUTE, None)
    return found if isinstance(found, CeleryProgress) else None


def _on_beat_init(sender: Any = None, **_: Any) -> None:
    found = _extension_of(sender.app)
    if found is not None:
        # Beat inside a worker (-B) has closed every descriptor that it inherited, without the objects that own them.
        # If collected later, such an object (a kombu epoll) closes the same descriptor number again, by then perhaps
        # one of the tick's sockets; collect it now.
        gc.collect()
        found.beat_tick.start()
    _end_beat_once()


def _end_beat_once() -> None:
    """Let the first SIGTERM or SIGINT end beat, and ignore any further one. Celery's handler sets an event; a second
    signal that strikes meanwhile would wait for that event's lock, and beat would hang.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    ending = (signal.SIGTERM, signal.SIGINT)
    for each in ending:
        handler = signal.getsignal(each)
        if callable(handler) and handler is not signal.default_int_handler:
            signal.signal(each, _once(handler, ending))


def _once(handler: Callable[[int, Any], Any], ending: Sequence[signal.Signals]) -> Callable[[int, Any], Any]:
    def end(number: int, frame: Any) -> Any:
        for each in ending:
            signal.signal(each, signal.SIG_IGN)
        return handler(number, frame)

    return end


def _on_worker_init(sender: Any = None, **_: Any) -> None:
    app = getattr(sender, "app", None)
    found = None if app is None else _extension_of(app)
    if found is not None:
        admission.install(found.app, receivers.claim_or_refuse, receivers.hand_over)
        prefork.connect(found._preload, lambda: found.settings.gc_freeze)
        for sentence in advise(found.app.conf):
            logger.warning("risky_setting", advice=sentence)
        _revoke_what_was_called_off(found)


def _on_worker_ready(sender: Any = None, **_: Any) -> None:
    """Celery's consumer is up: say who this worker is, until it shuts down."""
    found = _extension_of(sender.app)
    if found is None:
        return
    presence = Presence(found.database, found.settings, sender)
    presence.start()

    def on_shutting_down(**_: Any) -> None:
        presence.ask_to_stop()

    def on_shutdown(**_: Any) -> None:
        presence.stop()

    signals.worker_shutting_down.connect(on_shutting_down, weak=False, dispatch_uid=f"{_ATTRIBUTE}.presence.ask")
    signals.worker_shutdown.connect(on_shutdown, weak=False, dispatch_uid=f"{_ATTRIBUTE}.presence.stop")
    timer = threading.Timer(found.context.tick_trace.seconds, _warn_where_nothing_ticks, (found,))
    timer.daemon = True
    timer.start()


def _warn_where_nothing_ticks(found: CeleryProgress) -> None:
    with suppress(Exception):  # of Redis: whether there was a tick is not known then
        if found.context.tick_trace.missing():
            logger.warning(
                "no_beat",
                seconds=found.context.tick_trace.seconds,
                advice="nothing that is lost is healed, and no job shows signs of life: run `celery -A APP beat`",
            )


def _revoke_what_was_called_off(found: CeleryProgress) -> None:
    """A worker that starts after a cancel does not know of it, while the job's messages still wait in the queue: Celery
    keeps revokes in its workers' memory only.
    """
    from celery.worker import state

    try:
        state.revoked.update(called_off(found.database, seconds=state.REVOKE_EXPIRES))
    except Exception as error:
        # The database is away: such a chunk ends at its first report.
        logger.warning("revokes_not_read", error=f"{type(error).__name__}: {error}")
    finally:
        # Before the pool forks: a child has connections of its own.
        found.database.dispose()
