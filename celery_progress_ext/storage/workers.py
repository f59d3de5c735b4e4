"""The rows in which workers say who they are. One upsert by primary key a heartbeat; read at most once a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from celery_progress_ext.exceptions import DatabaseNotMigrated
from celery_progress_ext.roster import Roster, WorkerRecord
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.expressions import now
from celery_progress_ext.storage.schema import progress_workers as workers
from celery_progress_ext.storage.shared import Shared

#: Workers that one roster has at most, those that were seen last.
LIMIT = 1000
#: A worker that was not seen for so long is forgotten: nodes of a cluster have new names every day. Seconds.
FORGOTTEN_SECONDS = 7 * 86_400.0
#: How old a roster may be. Seconds.
ROSTER_SECONDS = 1.0

_LEASE = sa.bindparam("new_lease", type_=sa.Double)
_INSERT: dict[str, Any] = {"sqlite": sqlite.insert(workers), "postgresql": postgresql.insert(workers)}
_NEW = {"seen_at": now(), "alive_until": now() + _LEASE}
_UPSERT = {
    dialect: insert.values(_NEW).on_conflict_do_update(
        index_elements=[workers.c.node],
        set_={name: insert.excluded[name] for name in ("queues", "slots", "seen_at", "alive_until")},
    )
    for dialect, insert in _INSERT.items()
}
_GONE = (
    sa.update(workers)
    .where(workers.c.node == sa.bindparam("of_node", type_=sa.String))
    .values(seen_at=now(), alive_until=now())
)
_ROSTER = sa.select(workers, now().label("now")).order_by(workers.c.seen_at.desc()).limit(LIMIT)
_FORGOTTEN = workers.c.seen_at < now() - sa.bindparam("seconds", type_=sa.Double)
_ANY_FORGOTTEN = sa.select(workers.c.node).where(_FORGOTTEN).limit(1)
_FORGET = sa.delete(workers).where(_FORGOTTEN)


def seen(database: Database, node: str, *, queues: Sequence[str], slots: int, lease: float) -> None:
    """A worker is there.

    :param queues: those that it listens to.
    :param slots: how many tasks it runs at once.
    :param lease: seconds for which it counts as alive from now on.
    """
    values = {"node": node, "queues": list(queues), "slots": slots, "new_lease": lease}
    database.write(lambda conn: conn.execute(_UPSERT[conn.dialect.name], values))


def gone(database: Database, node: str) -> None:
    """A worker takes no more tasks. Its row stays for a while: it says who listened, and until when."""
    database.write(lambda conn: conn.execute(_GONE, {"of_node": node}))


def forget(database: Database) -> int:
    """Delete the rows of workers that have not been seen for a week; how many. Takes no write lock for none."""
    if database.row(_ANY_FORGOTTEN, seconds=FORGOTTEN_SECONDS) is None:
        return 0
    return database.write(lambda conn: conn.execute(_FORGET, {"seconds": FORGOTTEN_SECONDS}).rowcount) or 0


def roster(database: Database) -> Roster:
    """The workers that were seen within a week, the newest first, at most ``LIMIT``; none before revision 0004."""
    try:
        rows = database.rows(_ROSTER)
    except DatabaseNotMigrated:
        return Roster()
    return Roster(
        now=rows[0].now if rows else 0.0,
        workers=tuple(
            WorkerRecord(
                node=row.node,
                queues=frozenset(row.queues),
                slots=row.slots,
                seen_at=row.seen_at,
                alive_until=row.alive_until,
            )
            for row in rows
        ),
    )


def live_slots(database: Database, queues: Iterable[str] | None = None) -> int | None:
    """How many tasks of these queues, or of any queue, can run at once: the slots of the workers that live.

    :returns: 0 where workers are known and none of them listens; None where none has ever described itself, as before
        revision 0004 or with workers of an older version.
    """
    found = roster(database)
    return found.slots(queues) if found.known else None


class CurrentRoster(Shared[Roster]):
    """The roster, read at most once a second by each process, however many snapshots ask."""

    def __init__(self, database: Database) -> None:
        super().__init__(lambda: roster(database), seconds=ROSTER_SECONDS)
