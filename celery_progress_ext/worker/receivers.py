"""Thin receivers of Celery's signals: parse the task id, hand on, never raise.

They run in the pool's child or in MainProcess (a killed child, a hard limit), sometimes twice, late, or with an empty
``sender.request``; so all they rely on is the task id. They are module functions, because Celery's weak reference to
a bound method vanishes silently.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Protocol

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, signals
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from celery_progress_ext import ids
from celery_progress_ext.exceptions import InvalidCanvas, describe
from celery_progress_ext.ids import TaskId
from celery_progress_ext.log import get_logger
from celery_progress_ext.recording import Recording
from celery_progress_ext.recording.conclusion import FOLLOWS
from celery_progress_ext.soft_limits import forget_held_back, held_back, raise_held_back
from celery_progress_ext.worker.admission import Superseded
from celery_progress_ext.worker.heartbeat import Heartbeats

logger = get_logger(__name__)

#: How much longer than its countdown a retried task may wait in the queue before it counts as lost, in leases.
_RETRY_LEASES = 2
#: How long a replacement that is a whole canvas may take until the task with the id runs, in leases.
_CANVAS_LEASES = 120


class Tracking(Protocol):
    """What the receivers need of the extension."""

    @property
    def recording(self) -> Recording:
        """Where outcomes are recorded."""

    @property
    def heartbeats(self) -> Heartbeats:
        """The tasks at work in this process."""

    @property
    def lease_seconds(self) -> float:
        """How long a sign of life lasts."""


Find = Callable[[Celery], Tracking | None]


def _nothing(app: Celery) -> Tracking | None:
    return None


_find: Find = _nothing


def connect(find: Find) -> None:
    """Connect the receivers once per process; ``find`` gives the extension of an app, or None."""
    global _find
    _find = find
    for signal, receiver in _RECEIVERS:
        signal.connect(receiver, weak=False, dispatch_uid=f"celery_progress_ext.{receiver.__name__}")


def _quiet(receiver: Callable[..., None]) -> Callable[..., None]:
    """Log what went wrong instead of raising: Celery would swallow it anyway and log it as its own error."""

    @functools.wraps(receiver)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            with held_back():
                receiver(*args, **kwargs)
        except Exception as error:
            # The rows are the guarantee: what is not recorded now, the reconciler finds.
            logger.warning("receiver_failed", receiver=receiver.__name__, error=f"{type(error).__name__}: {error}")

    return call


def _tracked(sender: Any, task_id: str | None) -> tuple[Tracking, TaskId] | None:
    task = ids.parse(task_id)
    if task is None:
        return None
    tracking = _find(sender.app)
    return None if tracking is None else (tracking, task)


@_quiet
def on_prerun(sender: Any = None, task_id: str = "", **_: Any) -> None:
    """A chunk is about to run: send its signs of life. A body begins in :func:`claim_or_refuse`, once it is claimed."""
    found = _tracked(sender, task_id)
    if found is not None and found[1].chunk_index is not None:
        found[0].heartbeats.begin(task_id, found[1])


def claim_or_refuse(sender: Any, task_id: str) -> None:
    """Runs before the user's code, and may refuse it.

    :raises Superseded: for a body that is done, taken or cannot be claimed, and for a chunk that is finished or in
        other hands.
    """
    found = _tracked(sender, task_id)
    if found is None:
        _claim_follower(sender, task_id)
        return
    raise_held_back()
    tracking, task = found
    if task.chunk_index is None:
        _claim_body(tracking, task, task_id)
        return
    redelivered = bool((sender.request.delivery_info or {}).get("redelivered"))
    if redelivered or task.dispatch > 1:
        # Only a repeated message is worth a question before it runs: the first costs nothing here.
        _claim_chunk(tracking, task, task_id, redelivered=redelivered)


def hand_over(sender: Any, replacement: Any) -> None:
    """A task replaces itself: the replacement has its id, and goes on with its chunk or its merge.

    :raises InvalidCanvas: for a canvas that is tracked, whose job has a result of its own: the id would never get one.
    """
    found = _tracked(sender, sender.request.id)
    if found is None:
        return
    canvas = getattr(replacement, "subtask_type", None) or ""
    if canvas.startswith("tracked_"):
        raise InvalidCanvas(
            f"A tracked task cannot replace itself by a {canvas}: start that with apply_async, and return what names"
            " it."
        )
    tracking, task = found
    work = tracking.heartbeats.end(sender.request.id)
    leases = _CANVAS_LEASES if canvas else 1
    due = leases * tracking.lease_seconds
    if task.chunk_index is None:
        if work is not None and work.attempt is not None:
            tracking.recording.bodies.retrying(task.job_id, attempt=work.attempt, due=due)
        return
    attempt = work.attempt if work else None
    tracking.recording.chunks.retrying(task, attempt=attempt, due=due, reason="it replaced itself")


def _claim_follower(sender: Any, task_id: str) -> None:
    """A task that follows a job: refused where another publication of it came first."""
    header = sender.request.get(FOLLOWS)
    tracking = None if header is None else _find(sender.app)
    if tracking is None:
        return
    try:
        counts = tracking.recording.conclusion.claim(task_id, header)
    except Exception as error:
        # Twice is better than not at all.
        logger.warning("follower_not_claimed", task_id=task_id, error=f"{type(error).__name__}: {error}")
        return
    if not counts:
        raise Superseded("the task was published before, and that message has come to run")


def _claim_body(tracking: Tracking, task: TaskId, task_id: str) -> None:
    try:
        tracking.recording.chunks.reconcile_header(task.job_id)
        job = tracking.recording.bodies.claimed(task, task_id)
    except Exception as error:
        # Without the database nobody may merge. Raised on, it would be the body's own failure; it is due in the rows,
        # so the reconciler sends it again.
        logger.warning("body_not_claimed", job_id=task.job_id, error=f"{type(error).__name__}: {error}")
        raise Superseded("the merge could not be claimed now; it is sent again") from error
    if job is None:
        raise Superseded("the merge is done, or another worker has it")
    tracking.heartbeats.begin(task_id, task, attempt=job.body_attempt)


def _claim_chunk(tracking: Tracking, task: TaskId, task_id: str, *, redelivered: bool) -> None:
    # Where the database is slow, the heartbeat would record the start first, and this claim meet its own task's.
    work = tracking.heartbeats.end(task_id)
    attempt = work.attempt if work else None
    try:
        # A worker killed after the result was stored, before it was counted or acknowledged (F3-F6): done is done.
        done = redelivered and tracking.recording.chunks.stored_end(task, task_id)
        if done:
            attempt = None
        elif attempt is None:
            attempt = tracking.recording.chunks.started(task, take_over=redelivered)
    except Exception as error:
        # Database or Redis are away: run it, as a first message; its heartbeat asks again, a second run does no harm.
        logger.warning("chunk_not_claimed", job_id=task.job_id, error=f"{type(error).__name__}: {error}")
        tracking.heartbeats.begin(task_id, task, attempt=attempt)
        return
    if attempt is None:
        raise Superseded("the chunk is finished, or another worker has it")
    tracking.heartbeats.begin(task_id, task, attempt=attempt)


@_quiet
def on_success(sender: Any = None, result: Any = None, **_: Any) -> None:
    """A task returned. Its result is stored and its chord part counted already."""
    task_id = sender.request.id
    found = _tracked(sender, task_id)
    if found is None:
        return
    tracking, task = found
    work = tracking.heartbeats.end(task_id)
    if task.chunk_index is not None:
        tracking.recording.chunks.succeeded(
            task,
            result=result,
            seconds=work.seconds if work else None,
            total=work.total if work else None,
            # An eager task is over when it returns, and so is a job whose last one it is.
            may_batch=not sender.request.is_eager,
        )
    elif work is not None and work.attempt is not None:
        if work.ended:
            tracking.recording.bodies.concluded(task.job_id, result=result)
        else:
            tracking.recording.bodies.succeeded(task.job_id, attempt=work.attempt, result=result)


@_quiet
def on_failure(sender: Any = None, task_id: str = "", exception: BaseException | None = None, **_: Any) -> None:
    """A task failed, in the child, or in MainProcess when its child was killed or ran into the hard limit."""
    found = _tracked(sender, task_id)
    if found is None:
        return
    tracking, task = found
    work = tracking.heartbeats.end(task_id)
    attempt = work.attempt if work else None
    if work is None and _succeeded(tracking, task, task_id):
        return
    if isinstance(exception, Reject):
        # Task.retry rejects its message where it could not publish the next one; else the task rejected it itself.
        exception = exception.reason if isinstance(exception.reason, BaseException) else exception
        own = not isinstance(exception, OperationalError)
    else:
        # Celery's own failure, to store a result or to count a chord part (F8), comes when the task is over already:
        # there is no work entry for it any more; the same goes for a hard limit, which MainProcess reports.
        own = work is not None or isinstance(exception, TimeLimitExceeded)
    if own:
        _record_failure(tracking, task, task_id, error=describe(exception), attempt=attempt)
    elif task.chunk_index is not None:
        lost = isinstance(exception, WorkerLostError)
        reason = "its worker process was lost" if lost else f"its outcome was lost: {describe(exception)}"
        tracking.recording.chunks.lost(task, attempt=None, reason=reason, delivered=True)
    # A body that was lost is finished, or run again, by the reconciler once its lease is over.


def _record_failure(tracking: Tracking, task: TaskId, task_id: str, *, error: str, attempt: int | None = None) -> None:
    if task.chunk_index is not None:
        tracking.recording.chunks.failed(task, error=error, attempt=attempt)
    else:
        tracking.recording.bodies.failed(task.job_id, task_id, error=error, attempt=attempt)


def _succeeded(tracking: Tracking, task: TaskId, task_id: str) -> bool:
    """Record a success that is stored although Celery reports a failure: its part could not be counted (F8), or a
    receiver ran into the hard limit (F10). Where the backend does not answer, this raises; the expired lease settles it
    later.
    """
    if task.chunk_index is None:
        return tracking.recording.bodies.stored_success(task.job_id, task_id)
    return tracking.recording.chunks.stored_success(task, task_id)


@_quiet
def on_retry(sender: Any = None, request: Any = None, reason: Any = None, **_: Any) -> None:
    """A task retries itself: Celery sends the same id again after a countdown."""
    task_id = request.id if request is not None else sender.request.id
    found = _tracked(sender, task_id)
    if found is None:
        return
    tracking, task = found
    work = tracking.heartbeats.end(task_id)
    attempt = work.attempt if work else None
    if reason is None:
        # A cold shutdown, or a connection loss that cancels: Celery sends the retry signal in MainProcess and no
        # message. With late ack the broker delivers it again; without, only the reconciler does (F18).
        due, why = tracking.lease_seconds, "its worker was shut down"
    else:
        due = _countdown(reason) + _RETRY_LEASES * tracking.lease_seconds
        why = describe(getattr(reason, "exc", None) or reason)
    if task.chunk_index is not None:
        tracking.recording.chunks.retrying(task, attempt=attempt, due=due, reason=why)
    elif attempt is not None:
        tracking.recording.bodies.retrying(task.job_id, attempt=attempt, due=due)


@_quiet
def on_revoked(sender: Any = None, request: Any = None, expired: bool = False, **_: Any) -> None:
    """A task was revoked or expired before or while it ran. A cancelled job is over already: nothing changes then."""
    found = _tracked(sender, request.id if request is not None else None)
    if found is None:
        return
    tracking, task = found
    reason = "its message expired before a worker took it" if expired else "its task was revoked"
    _record_failure(tracking, task, request.id, error=reason)


@_quiet
def on_unknown(sender: Any = None, name: str = "", id: str = "", **_: Any) -> None:
    """No worker knows the task (F14), so no other signal will come for it."""
    found = _tracked(sender, id)
    if found is None:
        return
    tracking, task = found
    _record_failure(tracking, task, id, error=f"the worker has no task named {name!r}; import its module there")


@_quiet
def on_postrun(sender: Any = None, task_id: str = "", **_: Any) -> None:
    """However the task ended (Ignore and Reject send nothing else), its signs of life end."""
    found = _tracked(sender, task_id)
    if found is not None:
        found[0].heartbeats.end(task_id)
        forget_held_back()


_RECEIVERS: tuple[tuple[Any, Callable[..., None]], ...] = (
    (signals.task_prerun, on_prerun),
    (signals.task_success, on_success),
    (signals.task_failure, on_failure),
    (signals.task_retry, on_retry),
    (signals.task_revoked, on_revoked),
    (signals.task_unknown, on_unknown),
    (signals.task_postrun, on_postrun),
)


def _countdown(reason: Any) -> float:
    when = getattr(reason, "when", None)
    if isinstance(when, int | float):
        return float(when)
    if when is not None and hasattr(when, "timestamp"):
        return max(0.0, float(when.timestamp()) - time.time())
    return 0.0
