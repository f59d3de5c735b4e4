"""Keys, and sessions that were ended, in the service's own tables beside the library's: every web host sees them.

They are made when the first is written, or by ``python -m tasks migrate``. What is read while they are not there is
nothing. A table that changes gets a new name, or columns that may be null, so that old code goes on working.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.schema import CreateTable

from celery_progress_ext.exceptions import DatabaseNotMigrated
from celery_progress_ext.storage import Database
from celery_progress_ext.storage.expressions import JSON, now
from tasks.keys import KeyRecord, Role, digest, make_key

T = TypeVar("T")

_metadata = sa.MetaData()
_keys = sa.Table(
    "service_keys",
    _metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("label", sa.String(200), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("matters", JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)
_ended = sa.Table(
    "service_ended_sessions",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    #: When the session's cookie would have ended by itself.
    sa.Column("expires_at", sa.Double, nullable=False),
)

_USABLE = sa.and_(_keys.c.revoked_at.is_(None), sa.or_(_keys.c.expires_at.is_(None), _keys.c.expires_at > now()))
_SELECT = sa.select(
    *(_keys.c[name] for name in ("id", "digest", "label", "role", "matters", "created_at", "expires_at"))
)
_TABLES = tuple(_metadata.sorted_tables)


class Access(NamedTuple):
    """What decides at the door, as it was at one moment."""

    keys: tuple[KeyRecord, ...] = ()
    #: Ids of sessions that were signed out before their cookie ended.
    ended_sessions: frozenset[str] = frozenset()


class KeyTable:
    """The keys of a deployment. Raises what :class:`Database` does: ``DatabaseAway``, ``DatabaseError``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self) -> None:
        """Make the tables where they are not there. Safe to run from several places at once."""

        def work(conn: Connection) -> None:
            if conn.dialect.name == "postgresql":
                # IF NOT EXISTS alone lets two that run at once collide.
                conn.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('service_keys'))"))
            for table in _TABLES:
                conn.execute(CreateTable(table, if_not_exists=True))

        self._database.write(work)

    def add(self, *, matters: tuple[str, ...], role: Role, label: str = "", seconds: float | None = None) -> Added:
        """Make a key that is good for ``seconds``, or until it is revoked. The key itself is not kept."""
        key_id, key = make_key()
        row = {"id": key_id, "digest": digest(key), "label": label, "role": role.value, "matters": list(matters)}
        ends = None if seconds is None else now() + sa.literal(seconds, sa.Double)

        def work(conn: Connection) -> KeyRecord:
            conn.execute(_keys.insert().values(**row, created_at=now(), expires_at=ends))
            return _record(conn.execute(_SELECT.where(_keys.c.id == key_id)).one())

        return Added(self._written(work), key)

    def list(self) -> list[KeyRecord]:
        """The keys that open something now, oldest first."""
        return self._read(lambda conn: _usable(conn), [])

    def revoke(self, key_id: str) -> bool:
        """Let a key open nothing from now on; False where no usable one has this id."""
        query = _keys.update().where(_keys.c.id == key_id, _USABLE).values(revoked_at=now())
        return self._written(lambda conn: conn.execute(query).rowcount == 1)

    def end_session(self, session_id: str, *, seconds: float) -> None:
        """Remember for ``seconds`` that a session was signed out; those that are over are forgotten."""

        def work(conn: Connection) -> bool:
            conn.execute(_ended.delete().where(_ended.c.expires_at < now()))
            known = conn.execute(sa.select(_ended.c.id).where(_ended.c.id == session_id)).first()
            if known is None:
                ends = now() + sa.literal(seconds, sa.Double)
                conn.execute(_ended.insert().values(id=session_id, expires_at=ends))
            return True

        self._written(work)

    def access(self) -> Access:
        """The keys that open something now, and the sessions that were ended."""

        def work(conn: Connection) -> Access:
            ended = conn.execute(sa.select(_ended.c.id).where(_ended.c.expires_at >= now()))
            return Access(tuple(_usable(conn)), frozenset(row.id for row in ended))

        return self._read(work, Access())

    def _read(self, work: Callable[[Connection], T], nothing: T) -> T:
        try:
            return self._database.read(work)
        except DatabaseNotMigrated:
            return nothing

    def _written(self, work: Callable[[Connection], T]) -> T:
        try:
            found = self._database.write(work)
        except DatabaseNotMigrated:
            self.create()
            found = self._database.write(work)
        assert found is not None
        return found


class Added(NamedTuple):
    """A new key: its record, and the key itself, which is shown once."""

    record: KeyRecord
    key: str


def _usable(conn: Connection) -> list[KeyRecord]:
    return [_record(row) for row in conn.execute(_SELECT.where(_USABLE).order_by(_keys.c.created_at, _keys.c.id))]


def _record(row: sa.Row[tuple[object, ...]]) -> KeyRecord:
    values = dict(row._mapping)
    return KeyRecord(**{**values, "role": Role(values["role"]), "matters": tuple(values["matters"])})
