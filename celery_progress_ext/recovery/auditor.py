"""The audit that nobody has to ask for: a part of the reconciler's tick.

Every job is audited once after it ended, and again after a retry ended; running jobs take turns. A tick reads a bounded
number of rows, so an ended job with more rows is audited over several ticks: nothing of it changes any more.

A drift is logged, once per job and version. It is not a job event: the audit must not write to the history that it
verifies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sqlalchemy.engine import Connection

from celery_progress_ext.log import get_logger
from celery_progress_ext.recovery import queries
from celery_progress_ext.storage.audit import JobAudit, begin
from celery_progress_ext.storage.database import Database

logger = get_logger(__name__)

#: Rows that one tick reads of jobs that ended, and again of jobs that run.
ROWS = 5_000
#: Jobs that one tick looks at, of either kind.
JOBS = 50


@dataclass(kw_only=True)
class AuditRun:
    """What one run audited: jobs, and those of them with a drift that was not reported before."""

    jobs: int = 0
    drifted: int = 0


class BackgroundAuditor:
    """Audits jobs, a few at a time, and remembers where it was.

    :param rows: how many rows one run may read of ended, and again of running jobs. A running job with more of them is
        audited when it ended: its rows would change from one run to the next.
    """

    def __init__(self, database: Database, *, rows: int = ROWS) -> None:
        self._database = database
        self._rows = rows
        #: An ended job of which the last run did not read everything.
        self._begun: JobAudit | None = None
        #: Running jobs up to this id have had their turn.
        self._after = ""

    def run(self) -> AuditRun:
        """Audit what there is, as far as the rows go.

        :raises DatabaseNotMigrated: before revision 0002.
        """
        checked = AuditRun()
        self._check_ended(checked)
        self._check_running(checked)
        return checked

    def _check_ended(self, checked: AuditRun) -> None:
        left = self._rows
        for job in queries.unaudited_jobs(self._database, limit=JOBS):
            if left <= 0:
                return
            work = self._begun
            if work is None or (work.job_id, work.version) != (job.id, job.version):
                work = JobAudit(job)
            left -= self._database.read(partial(_read_on, work=work, limit=left))
            self._begun = None if work.done else work
            if work.done:
                first = queries.audited(self._database, work.job_id, version=work.version)
                _tell(work, checked, first=first)

    def _check_running(self, checked: AuditRun) -> None:
        left = self._rows
        jobs = queries.running_jobs(self._database, after=self._after, limit=JOBS)
        for job in jobs:
            work, used = self._database.read(partial(_read_at_once, job_id=job.id, limit=left))
            if work is not None and not work.done and left < self._rows:
                return  # it gets the rows of a whole run next time
            left -= used
            self._after = job.id
            if work is not None and work.done:
                # Noted only where there is something to report: the row is hot, and the job's end will be audited.
                drifted = bool(work.drifts())
                first = drifted and queries.audited(self._database, work.job_id, version=work.version)
                _tell(work, checked, first=first)
            if left <= 0:
                return
        if len(jobs) < JOBS:
            self._after = ""


def _read_on(conn: Connection, work: JobAudit, limit: int) -> int:
    """Read on in an ended job, unless it was retried or forgotten meanwhile; how many rows."""
    now = begin(conn, work.job_id)
    return work.read(conn, limit) if now is not None and now.version == work.version else 0


def _read_at_once(conn: Connection, job_id: str, limit: int) -> tuple[JobAudit | None, int]:
    """The audit of a job as it is now, not done where it has more rows; and how many were read."""
    work = begin(conn, job_id)
    return work, 0 if work is None else work.read(conn, limit)


def _tell(work: JobAudit, checked: AuditRun, *, first: bool) -> None:
    checked.jobs += 1
    drifts = work.drifts()
    if drifts and first:
        checked.drifted += 1
        logger.error(
            "audit_drift",
            job_id=work.job_id,
            version=work.version,
            drifts=[str(drift) for drift in drifts],
            advice="celery -A APP progress audit JOB says what to do",
        )
