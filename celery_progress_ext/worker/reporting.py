"""Progress as reported by a task: kept for the heartbeat, and shown in Celery's result backend and in Flower."""

from __future__ import annotations

import time
from typing import Any

from celery import Task

from celery_progress_ext.exceptions import IllegalTransition
from celery_progress_ext.log import get_logger
from celery_progress_ext.pace import PAGES_SECONDS
from celery_progress_ext.soft_limits import undisturbed
from celery_progress_ext.worker.admission import Superseded
from celery_progress_ext.worker.heartbeat import Heartbeats, Work

logger = get_logger(__name__)

#: The state that a task at work has in the result backend and in Flower.
PROGRESS = "PROGRESS"


_LARGEST = 2**62
#: Stop publishing PROGRESS so long before the hard time limit (F20). Seconds.
_LAST_SECONDS = 1.0


class Reporter:
    """Takes the reports of this process's tasks, each in the task's own thread."""

    def __init__(self, heartbeats: Heartbeats) -> None:
        self._heartbeats = heartbeats

    def report(self, task: Task, *, done: int, total: int | None) -> None:
        """Note ``done`` of ``total``; PROGRESS is published at a limited rate."""
        work = self._heartbeats.get(task.request.id)
        if work is None:
            return
        if work.superseded:
            raise Superseded("the job ended, or another attempt took over")
        # Numbers of any kind, which every database takes.
        done, total = _whole(done), None if total is None else _whole(total)
        first = work.done == 0
        if done != work.done:
            work.done, work.done_at = done, time.monotonic()
        work.total = total
        if first and done:
            self._heartbeats.nudge()
        if not _nearly_killed(task, work) and work.publish_due(PAGES_SECONDS):
            self._publish(task, work, done, total)

    @undisturbed()
    def reservation(self, task: Task, *, page: int, message: str) -> None:
        """Note a page that could not be wholly read, in the chunk's row."""
        work = self._heartbeats.get(task.request.id)
        if work is None or work.task.chunk_index is None:
            return
        with work.lock:
            work.reservations[page] = message
            self._heartbeats.write_reservations(work)
        if work.superseded:
            raise Superseded("the job ended, or another attempt took over")

    @undisturbed()
    def finish(self, task: Task, *, result: Any, connection: Any) -> None:
        """End a body's job in a transaction of the user's."""
        work = self._heartbeats.get(task.request.id)
        if work is None:
            return
        if work.task.chunk_index is not None or work.attempt is None:
            raise IllegalTransition("Only the body of a tracked chord can finish its job; a chunk's job goes on.")
        # From here on its heartbeats would wait for the row that the user's transaction holds.
        with work.lock:
            work.ended = True
        if not self._heartbeats.finish_in(connection, work, result=result):
            raise Superseded("the job ended, or another attempt took over")

    @staticmethod
    def _publish(task: Task, work: Work, done: int, total: int | None) -> None:
        meta = {"done": done, "total": total, "job_id": work.task.job_id, "chunk_index": work.task.chunk_index}
        try:
            if not task.request.is_eager:
                task.update_state(state=PROGRESS, meta=meta)
                if task.app.conf.worker_send_task_events:
                    # Flower takes a task's state from events; `task-progress` makes that PROGRESS.
                    task.send_event("task-progress", retry=False, **meta)
        except Exception as error:
            # A result backend that is away must not fail the chunk.
            logger.warning("update_state_failed", job_id=work.task.job_id, error=type(error).__name__)


def _whole(number: float) -> int:
    """A number of steps as the rows hold it."""
    return max(0, min(int(number), _LARGEST))


def _nearly_killed(task: Task, work: Work) -> bool:
    """Whether the hard time limit is near: MainProcess stores the FAILURE before it kills the process, which would turn
    the state back meanwhile (F20).
    """
    hard, _ = task.request.timelimit or (None, None)
    limit = hard or task.time_limit
    return limit is not None and work.seconds > limit - _LAST_SECONDS
