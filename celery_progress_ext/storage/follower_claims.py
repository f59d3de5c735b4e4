"""Which message of a task that follows a job runs: of those of one end, those of the publication that came first.

A process that dies between publishing and noting that leaves it to the tick, which publishes once more, under the same
task ids. A broker that delivers the first message again is not refused: its task may have died.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from celery_progress_ext.storage.schema import follower_claims as claims
from celery_progress_ext.storage.schema import processing_jobs as jobs


@dataclass(frozen=True, kw_only=True, slots=True)
class Following:
    """What a message of a follower carries.

    :ivar version: the job's at the end that it follows.
    :ivar publication: an id of its own for each time that the followers of this end are published.
    """

    job_id: str
    version: int
    publication: str

    def to_header(self) -> dict[str, Any]:
        """As JSON, for the message's headers."""
        return asdict(self)

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> Self:
        """:raises (KeyError, TypeError, ValueError): for what :meth:`to_header` did not make."""
        return cls(job_id=str(header["job_id"]), version=int(header["version"]), publication=str(header["publication"]))


_OF_JOB, _OF_TASK = sa.bindparam("of_job", type_=sa.String), sa.bindparam("of_task", type_=sa.String)
_VERSION = sa.bindparam("of_version", type_=sa.BigInteger)
_GIVEN = sa.select(jobs.c.id, _OF_TASK, _VERSION, sa.bindparam("publication", type_=sa.String)).where(
    jobs.c.id == _OF_JOB
)
_COLUMNS = (claims.c.job_id, claims.c.task_id, claims.c.version, claims.c.publication)
_CLAIMS = {
    dialect: insert.from_select(_COLUMNS, _GIVEN).on_conflict_do_update(
        index_elements=[claims.c.job_id, claims.c.task_id],
        set_={"version": insert.excluded.version, "publication": insert.excluded.publication},
        where=claims.c.version < insert.excluded.version,
    )
    for dialect, insert in (("sqlite", sqlite.insert(claims)), ("postgresql", postgresql.insert(claims)))
}
_HOLDER = sa.select(claims.c.version, claims.c.publication).where(
    claims.c.job_id == _OF_JOB, claims.c.task_id == _OF_TASK
)


def claim(conn: Connection, task_id: str, following: Following) -> bool:
    """Whether a message runs. True, too, where the job is not in this database, and nobody can say."""
    given = {
        "of_job": following.job_id,
        "of_task": task_id,
        "of_version": following.version,
        "publication": following.publication,
    }
    conn.execute(_CLAIMS[conn.dialect.name], given)
    holder = conn.execute(_HOLDER, {"of_job": following.job_id, "of_task": task_id}).first()
    return holder is None or (holder.version, holder.publication) == (following.version, following.publication)
