"""The jobs that wait in the queues, read once a second for all that ask what is before theirs."""

from __future__ import annotations

import sqlalchemy as sa

from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.rows import counting
from celery_progress_ext.storage.schema import processing_jobs as jobs
from celery_progress_ext.storage.shared import Shared
from celery_progress_ext.waiting import Backlog, QueuedJob

#: Jobs that are looked at, those that were created first: of more it is enough to know that they are very many.
LIMIT = 5000
#: How old a backlog may be. Seconds.
BACKLOG_SECONDS = 1.0

_WAITING = (
    sa.select(jobs.c.created_at, jobs.c.queues, jobs.c.unit, (jobs.c.pages_total - jobs.c.pages_done).label("left"))
    .where(counting, jobs.c.pending_chunks > 0)
    .order_by(jobs.c.created_at)
    .limit(LIMIT)
)


def backlog(database: Database) -> Backlog:
    """The active jobs that have chunks in a queue."""
    return Backlog(
        QueuedJob(
            created_at=row.created_at,
            queue=(row.queues or {}).get("chunks"),
            pages_left=max(0, row.left),
            unit=row.unit,
        )
        for row in database.rows(_WAITING)
    )


class CurrentBacklog(Shared[Backlog]):
    """The backlog, read at most once a second by each process."""

    def __init__(self, database: Database) -> None:
        super().__init__(lambda: backlog(database), seconds=BACKLOG_SECONDS)
