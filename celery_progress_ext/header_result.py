"""The header of a published job as Celery's ``GroupResult``, read from the rows: nothing is subscribed to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from celery.exceptions import ChordError, TimeoutError
from celery.result import AsyncResult, GroupResult, assert_will_not_block

from celery_progress_ext import ids
from celery_progress_ext.chunks import ChunkProgress, ChunkStatus
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.publishing import FAILURE, SUCCESS, Publisher
from celery_progress_ext.storage import lookups

_STATES = {
    ChunkStatus.PENDING: "PENDING",
    ChunkStatus.PROCESSING: "STARTED",
    ChunkStatus.COMPLETED: SUCCESS,
    ChunkStatus.FAILED: FAILURE,
}


class ChunkResult(AsyncResult):  # type: ignore[misc]
    """The result of one chunk, whichever message of it succeeded.

    ``get`` looks at the row: a subscription for each of thousands would stay for as long as its process lives.
    """

    def __init__(self, task_id: str, context: ProcessContext, publisher: Publisher) -> None:
        super().__init__(task_id, app=publisher.app)
        self._context = context
        self._publisher = publisher

    def __del__(self) -> None:
        """Nothing: Celery's own asks Redis to end a subscription that there is not."""

    @property
    def supports_native_join(self) -> bool:
        """False: joining natively would subscribe."""
        return False

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        disable_sync_subtasks: bool = True,
        callback: Any = None,
        **_: Any,
    ) -> Any:
        """Wait for the chunk, as ``AsyncResult.get``."""
        if disable_sync_subtasks:
            assert_will_not_block()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.ready():
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError("The operation timed out.")
            time.sleep(interval)
        self.maybe_throw(propagate=propagate, callback=callback)
        return self.result

    def _get_task_meta(self) -> dict[str, Any]:
        task = ids.parse(self.id)
        row = None if task is None else lookups.chunk(self._context.database, task.chunk_id)
        meta: dict[str, Any] = {"task_id": self.id, "status": "PENDING", "result": None, "traceback": None}
        if row is None or task is None:
            return meta
        meta["status"] = _STATES[row.status]
        if row.status is ChunkStatus.COMPLETED:
            meta["result"] = self._publisher.result(row.id, row.task_id)
        elif row.status is ChunkStatus.FAILED:
            state, raised = self._publisher.outcome(row.task_id)
            meta["result"] = raised if state == FAILURE else ChordError(row.error)
        return meta


class HeaderResult(GroupResult):  # type: ignore[misc]
    """The chunks of a job. ``completed_count()``, ``ready()`` and their kind are one look at the job's row, where
    Celery asks the result backend for each part.
    """

    def __init__(self, job_id: str, context: ProcessContext, publisher: Publisher) -> None:
        self._job_id = job_id
        self._context = context
        self._publisher = publisher
        super().__init__(f"{job_id}.header", None, app=publisher.app)

    @property
    def results(self) -> list[ChunkResult]:
        """One for each chunk, in the order of the header; none before the job is published."""
        return [
            ChunkResult(task_id, self._context, self._publisher)
            for task_id in lookups.task_ids(self._context.database, self._job_id)
        ]

    @results.setter
    def results(self, value: Sequence[AsyncResult] | None) -> None:
        """Celery's constructor has none to give."""

    @property
    def _counts(self) -> ChunkProgress | None:
        job = lookups.job(self._context.database, self._job_id)
        return None if job is None else job.chunks

    def __len__(self) -> int:
        return 0 if (counts := self._counts) is None else counts.total

    def completed_count(self) -> int:
        """How many chunks have succeeded."""
        return 0 if (counts := self._counts) is None else counts.completed

    def ready(self) -> bool:
        """Whether every chunk is completed or failed."""
        return (counts := self._counts) is not None and counts.settled

    def waiting(self) -> bool:
        """Whether a chunk is not over yet."""
        return not self.ready()

    def successful(self) -> bool:
        """Whether every chunk is completed."""
        return (counts := self._counts) is not None and counts.completed == counts.total

    def failed(self) -> bool:
        """Whether a chunk has failed."""
        return (counts := self._counts) is not None and counts.failed > 0

    def maybe_throw(self, callback: Any = None, propagate: bool = True) -> None:
        """Nothing: ``job.get()`` asks its parents first, and what a failed chunk means is the job's policy."""

    maybe_reraise = maybe_throw
