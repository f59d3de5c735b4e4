"""Questions of those who watch a service: can rows be changed now?"""

from __future__ import annotations

import sqlalchemy as sa

from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.schema import processing_jobs as jobs

#: Takes the locks that a change of a job takes, and changes none: no id is empty.
_NO_ROW = sa.update(jobs).where(jobs.c.id == "").values(version=jobs.c.version)


def write_nothing(database: Database) -> None:
    """A transaction like any that changes a job; it waits for locks as those do. Raises as ``Database.write`` does."""
    database.write(lambda conn: conn.execute(_NO_ROW).rowcount)
