"""What follows the end of a run: the job's result under its own id, and the tasks that the user chained to it.

The library publishes them, from the job's row, and not Celery's link machinery: a body whose code ran twice (killed,
or frozen for longer than its lease, before its result was stored) would publish them twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from celery import Celery
from celery.app.task import Context
from celery.canvas import Signature
from celery.exceptions import ChordError, TaskRevokedError

from celery_progress_ext.context import ProcessContext
from celery_progress_ext.jobs import JobShape, JobStatus
from celery_progress_ext.log import get_logger
from celery_progress_ext.publishing import FAILURE, SUCCESS, Publisher, ResultLost
from celery_progress_ext.storage import endings, follower_claims, lookups
from celery_progress_ext.storage.endings import Ending
from celery_progress_ext.storage.follower_claims import Following
from celery_progress_ext.storage.rows import JobRow

logger = get_logger(__name__)

#: The header of a message of a task that follows a job; see :class:`Following`.
FOLLOWS = "progress_follows"

_REVOKED = "REVOKED"
_SUCCEEDED = frozenset({JobStatus.COMPLETED, JobStatus.PARTIAL})


class Conclusion:
    """Concludes runs, once each; what is interrupted, the reconciler concludes."""

    def __init__(self, context: ProcessContext, publisher: Publisher) -> None:
        self._context = context
        self._publisher = publisher

    def store_result(self, job: JobRow, *, result: Any = None, known: bool = False) -> None:
        """Store the job's own result, where ``job.get()`` looks, before its end is announced. Logs what goes wrong.

        :param known: whether ``result`` is what the body returned; else it is looked up.
        """
        try:
            ending = endings.of(self._context.database, job.id)
            if ending is not None and not _may_differ(ending):
                self._store(job, self._result_or_loss(ending) if not known else result)
        except Exception as error:
            logger.warning("result_not_stored", job_id=job.id, error=f"{type(error).__name__}: {error}")

    def follow(self, job_id: str) -> bool:
        """Publish what follows a run, and note that. False where nothing does, or it was done.

        :raises Exception: what publishing raises.
        """
        ending = endings.of(self._context.database, job_id)
        if ending is None or _may_differ(ending):
            return False
        if ending.job.status in _SUCCEEDED and ending.followers.get("links"):
            result = self._result(ending)
            following = Following(job_id=job_id, version=ending.job.version, publication=uuid4().hex)
            for link in ending.followers["links"]:
                self._send(Signature.from_dict(dict(link), app=self._app), result, following)
            logger.info("followers_sent", job_id=job_id, tasks=len(ending.followers["links"]))
        elif ending.job.status is JobStatus.FAILED and ending.followers.get("errbacks"):
            self._call_errbacks(ending)
        self._context.database.write(lambda conn: endings.followed(conn, job_id, version=ending.job.version))
        return True

    def follow_or_log(self, job_id: str) -> None:
        """:meth:`follow`, leaving what cannot be published now to the next tick, or to what runs the job here."""
        if self._publisher.eager.is_running(job_id):
            return
        try:
            self.follow(job_id)
        except Exception as error:
            logger.warning("followers_not_sent", job_id=job_id, error=f"{type(error).__name__}: {error}")

    def claim(self, task_id: str, header: Mapping[str, Any]) -> bool:
        """Whether this message of a task that follows a job runs.

        :param header: its ``FOLLOWS``.
        :raises Exception: what the database raises, and for a header that is not ours.
        """
        following = Following.from_header(header)
        return bool(self._context.database.write(lambda conn: follower_claims.claim(conn, task_id, following)))

    def forget(self, job_id: str) -> None:
        """A run begins again: the result of the one before would stay, since Celery keeps a stored success."""
        if job_id in self._publisher.eager:
            self._publisher.eager.forget(job_id)
            return
        try:
            self._app.backend.forget(job_id)
        except Exception as error:
            logger.warning("result_not_forgotten", job_id=job_id, error=f"{type(error).__name__}: {error}")

    def _store(self, job: JobRow, result: Any) -> None:
        if isinstance(result, ResultLost):
            state = FAILURE
        elif job.status in _SUCCEEDED:
            state = SUCCESS
        elif job.status is JobStatus.FAILED:
            state, result = FAILURE, self._failure(job)
        else:
            state, result = _REVOKED, TaskRevokedError("the job was cancelled")
        if job.id in self._publisher.eager:
            self._publisher.eager.keep(job.id, job.id, state, result)
        else:
            self._app.backend.store_result(job.id, result, state)

    def _send(self, link: Signature, result: Any, following: Following) -> None:
        """Publish what follows a job; where that ran in this process, run it."""
        eager, job_id = self._publisher.eager, following.job_id
        if job_id not in eager:
            link.apply_async((result,), headers={FOLLOWS: following.to_header()})
            return
        try:
            ended = link.apply((result,), throw=False)
            # A chain's result is that of its last task; a group's is not looked at.
            last_id, state, result = ended.id, getattr(ended, "state", SUCCESS), getattr(ended, "result", None)
        except Exception as error:
            last_id, state, result = str(endings.task_id(link, step=-1)), FAILURE, error
        eager.keep(job_id, last_id, state, result)

    def _result(self, ending: Ending) -> Any:
        job = ending.job
        if job.status not in _SUCCEEDED:
            return None
        if not job.has_body:
            results = self._publisher.results(job.id)
            return results[0] if job.shape == JobShape.TASK else results
        if ending.result is not None:
            return ending.result[0]
        return self._publisher.outcome(job.body_task_id)[1]

    def _result_or_loss(self, ending: Ending) -> Any:
        """The result; for a job without a body, whose chunks' results are gone, the error that says so."""
        try:
            return self._result(ending)
        except ResultLost as error:
            return error

    def _failure(self, job: JobRow) -> Exception:
        """What ``job.get()`` raises: a chord's error, or the task's own where there is no chord."""
        failed = None if job.has_body else lookups.first_failed_task(self._context.database, job.id)
        if failed is not None:
            state, error = self._publisher.outcome(failed)
            if state == FAILURE and isinstance(error, Exception):
                return error
        of_chord: Exception = ChordError(job.error)
        return of_chord

    def _call_errbacks(self, ending: Ending) -> None:
        errbacks = [Signature.from_dict(dict(each), app=self._app) for each in ending.followers["errbacks"]]
        request = Context(id=ending.job.id, errbacks=errbacks, chord=None, task="", args=(), kwargs={})
        # It stores the failure once more, and calls each errback as it asks for it.
        self._app.backend.mark_as_failure(
            ending.job.id,
            self._failure(ending.job),
            request=request,
            store_result=ending.job.id not in self._publisher.eager,
        )
        logger.info("errbacks_called", job_id=ending.job.id, tasks=len(errbacks))

    @property
    def _app(self) -> Celery:
        return self._publisher.app


def _may_differ(ending: Ending) -> bool:
    """Whether the run is not over (any more), or concluded already."""
    return not ending.job.status.terminal or ending.job.followed_at is not None
