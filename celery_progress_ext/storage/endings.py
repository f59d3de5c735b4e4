"""What a job's row knows of its end: what its body returned, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.jobs import TERMINAL
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.expressions import now
from celery_progress_ext.storage.rows import JOB_COLUMNS, JobRow, has_status
from celery_progress_ext.storage.schema import processing_jobs as jobs


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """A job with its end.

    :ivar result: what the body returned, in a list of one; None where that is not kept in the row.
    :ivar followers: signatures by kind: ``links`` run after a success, ``errbacks`` after a failure.
    """

    job: JobRow
    result: list[Any] | None
    followers: Mapping[str, Any]

    @property
    def first_tasks(self) -> list[str]:
        """The ids of the tasks that run first after a success; a group has no such id."""
        return [found for link in self.followers.get("links") or () if (found := task_id(link, step=0))]


def task_id(signature: Mapping[str, Any], *, step: int) -> str | None:
    """The id that a signature gives its task; of a chain, that of its first (``step`` 0) or last (-1) one."""
    while signature.get("subtask_type") == "chain":
        signature = signature["kwargs"]["tasks"][step]
    found: str | None = (signature.get("options") or {}).get("task_id")
    return found


_ENDING = sa.select(*JOB_COLUMNS, jobs.c.followers, jobs.c.result.label("kept_result")).where(
    jobs.c.id == sa.bindparam("of_job", type_=sa.String), jobs.c.followers.is_not(None)
)


def of(database: Database, job_id: str) -> Ending | None:
    """A job's end; None for one of before revision 0003, whose followers Celery has, and where there is no such job."""
    row = database.row(_ENDING, of_job=job_id)
    return None if row is None else Ending(job=JobRow.of(row), result=row.kept_result, followers=row.followers)


_FOLLOWED = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("of_job", type_=sa.String), jobs.c.version == sa.bindparam("of_version"))
    .values(followed_at=now())
)


def followed(conn: Connection, job_id: str, *, version: int) -> None:
    """What follows this version of the job was published."""
    conn.execute(_FOLLOWED, {"of_job": job_id, "of_version": version})


_UNFOLLOWED = (
    sa.select(*JOB_COLUMNS)
    .where(
        has_status(jobs.c.status, TERMINAL),
        jobs.c.followed_at.is_(None),
        jobs.c.followers.is_not(None),
        jobs.c.finished_at < now() - sa.bindparam("lease", type_=sa.Double),
        jobs.c.finished_at > now() - sa.bindparam("most", type_=sa.Double),
    )
    .order_by(jobs.c.finished_at)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)


def unfollowed(database: Database, *, lease: float, most: float, limit: int) -> list[JobRow]:
    """Runs that ended more than a lease ago, and less than ``most`` seconds, and were not concluded."""
    return [JobRow.of(row) for row in database.rows(_UNFOLLOWED, lease=lease, most=most, limit=limit)]
