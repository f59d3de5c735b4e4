"""Runs a job in this process, as Celery runs a chord eagerly: each chunk, the body, and what follows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.canvas import Signature

from celery_progress_ext import ids
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.exceptions import describe
from celery_progress_ext.publishing import FAILURE, Publisher
from celery_progress_ext.recording import Recording
from celery_progress_ext.storage import lookups, sending

_BATCH = 200
_NO_RESULT = "its task ended without a result (Ignore or Reject)"


class EagerRunner:
    """Runs what the rows say is to be sent, where a publisher would send it. The policies hold as they do there."""

    def __init__(self, context: ProcessContext, recording: Recording, publisher: Publisher) -> None:
        self._context = context
        self._recording = recording
        self._publisher = publisher

    def run(self, job_id: str) -> None:
        """Run a job to its end.

        :raises Exception: the first that a task of it raised, with ``task_eager_propagates``; the job is over then.
        """
        with self._publisher.eager.running(job_id) as errors:
            self._chunks(job_id)
            self._body(job_id)
            self._recording.flush()
            job = lookups.job(self._context.database, job_id)
            if job is not None and not job.has_body:
                # It was concluded by its last chunk, whose own result was not known here before.
                self._recording.conclusion.store_result(job)
            self._recording.conclusion.follow(job_id)
        if errors and self._publisher.app.conf.task_eager_propagates:
            raise errors[0]

    def _chunks(self, job_id: str) -> None:
        after = -1
        with self._publisher.marker(job_id) as marker:
            while batch := sending.unsent_chunks(self._context.database, job_id, after=after, limit=_BATCH):
                for each in batch:
                    if self._open(job_id) is None:
                        return  # the policy is `fail`, or somebody cancelled it
                    self._apply(each.signature, (), each.chunk.task_id)
                    marker.sent(each.chunk.id, each.chunk.task_id)
                after = batch[-1].chunk.chunk_index
        self._recording.flush()
        for task_id in lookups.unfinished_tasks(self._context.database, job_id):
            if (task := ids.parse(task_id)) is not None:
                self._recording.chunks.failed(task, error=_NO_RESULT)

    def _body(self, job_id: str) -> None:
        job = self._open(job_id)
        if job is None or not job.has_body:
            return
        signature = lookups.body_signature(self._context.database, job_id)
        results = self._publisher.results(job_id)
        self._apply(signature, (results,), ids.body_task_id(job_id, job.body_attempt + 1))
        if (job := self._open(job_id)) is not None:
            self._recording.bodies.failed(job_id, job.body_task_id, error=_NO_RESULT, attempt=job.body_attempt)

    def _apply(self, signature: Mapping[str, Any], args: tuple[Any, ...], task_id: str) -> None:
        """Run one task; receivers of its signals record what it did."""
        task = ids.parse(task_id)
        assert task is not None
        found = Signature.from_dict(dict(signature), app=self._publisher.app)
        try:
            ended = found.apply(args, task_id=task_id, throw=False)
            state, result = ended.state, ended.result
        except Exception as error:
            # Celery's eager retries raise with `task_eager_propagates`, and send no signal then.
            state, result = FAILURE, error
            if task.chunk_index is not None:
                self._recording.chunks.failed(task, error=describe(error))
            else:
                self._recording.bodies.failed(task.job_id, task_id, error=describe(error))
        self._publisher.eager.keep(task.job_id, task_id, state, result)

    def _open(self, job_id: str) -> Any:
        """The job's row; None when it is over."""
        job = lookups.job(self._context.database, job_id)
        return None if job is None or job.status.terminal else job
