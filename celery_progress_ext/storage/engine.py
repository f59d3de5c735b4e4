"""The database: one engine per process and URL, SQLite that loses no update, and the clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from celery_progress_ext.exceptions import DatabaseNotMigrated, MissingExtra

T = TypeVar("T")


class Stale(Exception):
    """The change no longer applies (the run is over, its merge has begun): roll back, as if it had not been asked."""


#: Seconds since the epoch on the database's clock. julianday has a resolution well below a millisecond.
_NOW = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}
#: PostgreSQL codes of an error that goes away when the transaction runs again: serialization failure, deadlock.
_RETRY_CODES = frozenset({"40001", "40P01"})
_WRITE_TRIES = 4


class Database:
    """Where jobs, chunks and events are kept: SQLite or PostgreSQL, by URL.

    Safe to inherit through a fork: the pool is made anew in the child.
    """

    def __init__(self, url: str) -> None:
        self.url = _with_driver(sa.engine.make_url(url))
        self.dialect = self.url.get_backend_name()
        if self.dialect not in _NOW:
            raise MissingExtra(f"progress_database_url: {self.dialect!r} is not supported; use sqlite or postgresql")
        self._engine: sa.Engine | None = None
        self._pid = os.getpid()

    @property
    def engine(self) -> sa.Engine:
        """The engine of this process."""
        pid = os.getpid()
        if self._engine is not None and self._pid != pid:
            # Connections of the parent must not be closed by us, nor shared with it.
            self._engine.dispose(close=False)
            self._engine = None
        if self._engine is None:
            self._engine, self._pid = _make_engine(self.url), pid
        return self._engine

    def dispose(self) -> None:
        """Close every pooled connection of this process."""
        if self._engine is not None and self._pid == os.getpid():
            self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for queries; on SQLite it takes no write lock."""
        with self.engine.connect().execution_options(cpx_read_only=True) as conn:
            yield conn

    def write(self, work: Callable[[Connection], T | None]) -> T | None:
        """Run ``work(conn)`` in one short transaction, again when the database asks for that (a deadlock).

        None, and nothing changed, where ``work`` raises :class:`Stale`.
        """
        for tries in range(_WRITE_TRIES):
            try:
                with self.engine.begin() as conn:
                    return work(conn)
            except Stale:
                return None
            except sa.exc.DBAPIError as error:
                code = getattr(error.orig, "pgcode", None)
                if code not in _RETRY_CODES or tries == _WRITE_TRIES - 1:
                    raise missing_table(error) or error from error.orig
                time.sleep(0.01 * 2**tries)
        raise AssertionError("unreachable")

    def rows(self, query: str, /, **params: Any) -> list[RowMapping]:
        """All rows of a query. ``{now}`` in it is the database's clock."""
        try:
            with self.reading() as conn:
                return list(conn.execute(self.sql(query), params).mappings())
        except sa.exc.DBAPIError as error:
            raise missing_table(error) or error from error.orig

    def row(self, query: str, /, **params: Any) -> RowMapping | None:
        """The first row of a query, or None."""
        found = self.rows(query, **params)
        return found[0] if found else None

    def sql(self, text: str) -> sa.TextClause:
        """A statement for this database: ``{now}`` and ``{json}…`` filled in, compiled once."""
        return _statement(text, self.dialect)


@lru_cache(maxsize=512)
def _statement(text: str, dialect: str) -> sa.TextClause:
    return sa.text(text.replace("{now}", _NOW[dialect]))


def execute(conn: Connection, text: str, /, **params: Any) -> sa.CursorResult[Any]:
    """One statement on ``conn``; ``{now}`` in it is the database's clock."""
    return conn.execute(_statement(text, conn.dialect.name), params)


def execute_many(conn: Connection, text: str, params: list[Mapping[str, Any]]) -> None:
    """One statement for many parameter sets; nothing for none."""
    if params:
        conn.execute(_statement(text, conn.dialect.name), params)


def missing_table(error: sa.exc.DBAPIError) -> DatabaseNotMigrated | None:
    """What to tell when an error means that the tables are missing or old; else None."""
    text = str(error.orig).lower()
    if "no such table" in text or "no such column" in text or getattr(error.orig, "pgcode", None) in ("42P01", "42703"):
        return DatabaseNotMigrated()
    return None


def _with_driver(url: sa.URL) -> sa.URL:
    # A URL without a driver means psycopg2 here; SQLAlchemy 2.1 would take psycopg 3. Hosters say `postgres:`.
    return url.set(drivername="postgresql+psycopg2") if url.drivername in ("postgresql", "postgres") else url


def _make_engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    try:
        # A completion that a crash of the database forgets is found again by the reconciler, so a
        # transaction need not wait for the disk.
        return sa.create_engine(
            url, pool_pre_ping=True, connect_args={"options": "-c synchronous_commit=off", "connect_timeout": 10}
        )
    except ModuleNotFoundError as error:
        raise MissingExtra("PostgreSQL needs psycopg2: pip install 'celery-progress-ext[postgres]'") from error


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def _connect(dbapi: Any, _record: Any) -> None:
        # We emit BEGIN ourselves: the driver's own deferred BEGIN loses updates between processes.
        dbapi.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            dbapi.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        read_only = conn.get_execution_options().get("cpx_read_only")
        conn.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
