"""The database: one engine per process and URL, SQLite that loses no update, and the clock."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.exceptions import DatabaseNotMigrated, MissingExtra

T = TypeVar("T")


class Stale(Exception):
    """The change no longer applies (the run is over, its merge has begun): roll back, as if it had not been asked."""


#: Seconds since the epoch on the database's clock. julianday has a resolution well below a millisecond.
_NOW = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}
#: Options of a connection whose transaction sees one moment. SQLite's does by itself, in WAL mode.
_ONE_MOMENT: dict[str, dict[str, Any]] = {
    "sqlite": {"cpx_read_only": True},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}
#: PostgreSQL codes of an error that goes away when the transaction runs again: serialization failure, deadlock.
_RETRY_CODES = frozenset({"40001", "40P01"})
_WRITE_TRIES = 4
#: A named parameter, and not a cast.
NAMED = re.compile(r"(?<!:):([a-z_]+)")


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

    def write(self, work: Callable[[Connection], T | None], *, single: bool = False) -> T | None:
        """Run ``work(conn)`` in one short transaction; None, and nothing changed, where it raises :class:`Stale`.

        ``single`` says that on PostgreSQL it is one statement: that is a transaction without being told so.

        It runs again where the database asks for that (a deadlock), and on a new connection where the old one broke
        (a restart). Changes are guarded, so one that was committed after all takes no effect a second time.

        :raises DatabaseNotMigrated: when the tables are missing or old.
        :raises sqlalchemy.exc.DBAPIError: whatever else the database says, or that it is away.
        """
        for tries in range(_WRITE_TRIES):
            try:
                with self._transaction(single) as conn:
                    return work(conn)
            except Stale:
                return None
            except self._errors as error:
                if tries == _WRITE_TRIES - 1 or not self._worth_another_try(error):
                    raise self._told(error) from None
                time.sleep(0.01 * 2**tries)
        raise AssertionError("unreachable")

    def _transaction(self, single: bool) -> AbstractContextManager[Connection]:
        return self._autocommit() if single and self.dialect == "postgresql" else self.engine.begin()

    @contextmanager
    def _autocommit(self) -> Iterator[Connection]:
        with self.engine.connect() as conn:
            # Not SQLAlchemy's isolation_level="AUTOCOMMIT", which costs two round trips.
            dbapi: Any = conn.connection.dbapi_connection
            dbapi.autocommit = True
            try:
                yield conn
            finally:
                if not dbapi.closed:
                    dbapi.autocommit = False

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work(conn)``, all of whose queries see the database as it was at one moment; it takes no write lock.

        It runs again on a new connection where the old one broke.

        :raises DatabaseNotMigrated: when the tables are missing or old.
        :raises sqlalchemy.exc.DBAPIError: whatever else the database says, or that it is away.
        """
        for tries in range(2):
            try:
                # Begun explicitly: `execute` goes past SQLAlchemy, which would begin at its own first statement.
                with self.engine.connect().execution_options(**_ONE_MOMENT[self.dialect]) as conn, conn.begin():
                    return work(conn)
            except self._errors as error:
                if tries or not self._worth_another_try(error):
                    raise self._told(error) from None
        raise AssertionError("unreachable")

    def rows(self, query: str, /, **params: Any) -> list[Row]:
        """All rows of a query. ``{now}`` in it is the database's clock.

        :raises DatabaseNotMigrated: when the tables are missing or old.
        :raises sqlalchemy.exc.DBAPIError: whatever else the database says, or that it is away.
        """
        for tries in range(2):
            try:
                with self.reading() as conn:
                    return execute(conn, query, **params)
            except self._errors as error:
                if tries or not self._worth_another_try(error):
                    raise self._told(error) from None
        raise AssertionError("unreachable")

    def row(self, query: str, /, **params: Any) -> Row | None:
        """The first row of a query, or None."""
        found = self.rows(query, **params)
        return found[0] if found else None

    def _told(self, error: Exception) -> Exception:
        """What to raise for an error: SQLAlchemy's kind, also where :func:`execute` went past it to the driver."""
        driver = self.engine.dialect.loaded_dbapi.Error
        found = _not_migrated(error)
        if found is None and isinstance(error, driver):
            return sa.exc.DBAPIError.instance(None, None, error, driver, dialect=self.engine.dialect)
        return found or error

    @cached_property
    def _errors(self) -> tuple[type[Exception], ...]:
        return (sa.exc.DBAPIError, self.engine.dialect.loaded_dbapi.Error)

    def _worth_another_try(self, error: Exception) -> bool:
        cause: Any = getattr(error, "orig", error)
        if self.engine.dialect.is_disconnect(cause, None, None):
            # The other pooled connections broke with this one.
            self.engine.dispose()
            return True
        return getattr(cause, "pgcode", None) in _RETRY_CODES


#: A row as a mapping from its column names.
Row = dict[str, Any]


@lru_cache(maxsize=512)
def _statement(text: str, dialect: str) -> str:
    text = text.replace("{now}", _NOW[dialect])
    return text if dialect == "sqlite" else NAMED.sub(r"%(\1)s", text)


def execute(conn: Connection, text: str, /, **params: Any) -> list[Row]:
    """One statement on ``conn``, and the rows that it returns. ``{now}`` in it is the database's clock.

    Through the driver's own cursor: SQLAlchemy works out the columns of a textual result anew at every execution, which
    is most of what a completion costs on SQLite.
    """
    cursor: Any = conn.connection.cursor()
    try:
        cursor.execute(_statement(text, conn.dialect.name), params)
        if cursor.description is None:
            return []
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]
    finally:
        cursor.close()


def execute_one(conn: Connection, text: str, /, **params: Any) -> Row | None:
    """One statement on ``conn``, and the first row that it returns."""
    found = execute(conn, text, **params)
    return found[0] if found else None


def execute_prepared(conn: Connection, text: str, /, **params: Any) -> Row | None:
    """:func:`execute_one` for a statement of PostgreSQL whose plan costs more than its work: planned once a connection.

    The statement's name tells its text. So it does no harm that a pooler before the server (pgbouncer in transaction
    mode) gives a connection on which it is not prepared yet, or was by somebody else; outside a transaction only, which
    the error would end.
    """
    name, prepare, run = _prepared(text)
    known = conn.connection.info.setdefault("cpx_prepared", set())
    if name not in known:
        _prepare(conn, prepare)
        known.add(name)
    try:
        return execute_one(conn, run, **params)
    except conn.dialect.loaded_dbapi.Error as error:
        if getattr(error, "pgcode", None) != _NOT_PREPARED:
            raise
    _prepare(conn, prepare)
    return execute_one(conn, run, **params)


_NOT_PREPARED, _PREPARED_ALREADY = "26000", "42P05"


def _prepare(conn: Connection, prepare: str) -> None:
    try:
        execute(conn, prepare)
    except conn.dialect.loaded_dbapi.Error as error:
        if getattr(error, "pgcode", None) != _PREPARED_ALREADY:
            raise


@lru_cache(maxsize=32)
def _prepared(text: str) -> tuple[str, str, str]:
    """Its name, the statement that prepares it, and the one that runs it, with named parameters."""
    names = list(dict.fromkeys(NAMED.findall(text)))
    name = "cpx_" + hashlib.sha256(text.encode()).hexdigest()[:16]
    numbered = NAMED.sub(lambda found: f"${names.index(found[1]) + 1}", text)
    return name, f"PREPARE {name} AS {numbered}", f"EXECUTE {name} ({', '.join(':' + each for each in names)})"


def execute_many(conn: Connection, text: str, params: list[dict[str, Any]]) -> None:
    """One statement for many parameter sets; nothing for none."""
    if params:
        conn.execute(sa.text(text.replace("{now}", _NOW[conn.dialect.name])), params)


def _not_migrated(error: Exception) -> DatabaseNotMigrated | None:
    """What to tell when an error means that the tables are missing or old; else None."""
    text = str(error).lower()
    code = getattr(getattr(error, "orig", error), "pgcode", None)
    if "no such table" in text or "no such column" in text or code in ("42P01", "42703"):
        return DatabaseNotMigrated()
    return None


def _with_driver(url: sa.URL) -> sa.URL:
    # A URL without a driver means psycopg2 here; SQLAlchemy 2.1 would take psycopg 3. Hosters say `postgres:`.
    return url.set(drivername="postgresql+psycopg2") if url.drivername in ("postgresql", "postgres") else url


#: Also where the server's own configuration says off: a commit that a crash forgets was told to readers already. Their
#: versions and percents would go back, and a job whose rows are forgotten never ends.
_POSTGRES_OPTIONS = "-c synchronous_commit=on"
#: A connection through a network that went away is given up within half a minute, not after TCP's quarter of an hour
#: (two where nothing was sent): heartbeats and the tick wait for it. Seconds, and milliseconds for the last.
_POSTGRES_CONNECT = {
    "options": _POSTGRES_OPTIONS,
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


def _make_engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    try:
        return sa.create_engine(url, connect_args=_POSTGRES_CONNECT)
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
