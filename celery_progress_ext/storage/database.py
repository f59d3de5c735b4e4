"""The database: SQLAlchemy's engine, short transactions that lose no update, and errors of the library's kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from celery_progress_ext.exceptions import (
    DatabaseAway,
    DatabaseError,
    DatabaseNotMigrated,
    InvalidSetting,
    ProgressError,
)
from celery_progress_ext.forks import begins_anew_in_a_child
from celery_progress_ext.private_files import PrivateFiles
from celery_progress_ext.soft_limits import undisturbed
from celery_progress_ext.storage.database_url import DatabaseUrl
from celery_progress_ext.storage.json import dumps, loads

T = TypeVar("T")

if TYPE_CHECKING:
    #: A row of any columns.
    AnyRow: TypeAlias = Row[*tuple[Any, ...]]
else:
    AnyRow = Row  # SQLAlchemy 2.0 has it with one parameter

#: Connections of a process at once, and those that it keeps open for later.
MAX_CONNECTIONS, MAX_IDLE = 15, 5
#: How long to wait for one while all are in use. Seconds.
WAIT_SECONDS = 30.0
#: PostgreSQL's codes of an error that goes away when the transaction runs again: serialization failure, deadlock, and
#: the limits of the session (lock, statement, idle in transaction), which end what another process holds up.
_RETRY_CODES = frozenset({"40001", "40P01", "55P03", "57014", "25P03"})
_WRITE_TRIES = 4
#: SQLite's codes of an error that goes away by itself, or with more room: busy, locked, read-only, I/O, full, cannot
#: open, and a WAL that many open at once.
_SQLITE_AWAY = frozenset({5, 6, 8, 10, 13, 14, 15})
#: How SQLite says that a table or a column is not there, and PostgreSQL's codes for it.
_MISSING = ("no such table", "no such column", "has no column named")
_MISSING_CODES = frozenset({"42P01", "42703"})
#: How a transaction begins. SQLite's own deferred BEGIN loses updates between processes when it turns into a write.
_BEGIN_WRITE, _BEGIN_READ = "BEGIN IMMEDIATE", "BEGIN"


class Stale(Exception):
    """The change no longer applies (the run is over, its merge has begun): roll back, as if it had never begun."""


class Database:
    """Where jobs, chunks and events are kept: SQLite or PostgreSQL, by URL.

    Shared by the threads of a process, safe to inherit through a fork.

    :param hold_seconds: on PostgreSQL, how long a transaction may stand idle, or wait for a lock, before the server
        ends it; one statement may take nearly twice that. So a process that froze inside one does not hold up others.
        None leaves that to the server.
    :param files: how a new SQLite file is made; its owner alone reads it unless told otherwise. SQLite gives the files
        beside it the same permissions.
    :raises InvalidSetting: for a URL that is not one of these.
    :raises MissingExtra: where its driver is not installed.
    """

    def __init__(self, url: str, *, hold_seconds: float | None = None, files: PrivateFiles | None = None) -> None:
        self._files = files or PrivateFiles()
        self.url = url
        self._url = DatabaseUrl.parse(url)
        self.dialect = self._url.dialect
        #: For migrations, and queries of one's own.
        self.engine = self._make_engine(hold_seconds)
        self._reads = self.engine.execution_options(begin=_BEGIN_READ)
        if self.dialect == "postgresql":
            self._reads = self._reads.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        else:
            self._single = self._reads
        begins_anew_in_a_child(self)

    def __repr__(self) -> str:
        return f"<{self.dialect} database>"

    @property
    def path(self) -> Path | None:
        """The file of an SQLite database; None for any other, and for one in memory."""
        return self._url.path

    def begin_anew(self) -> None:
        """In a forked child: the parent's connections stay the parent's. Closing one here would end it there."""
        self.engine.dispose(close=False)

    def dispose(self) -> None:
        """Close every connection of this process that is not in use."""
        self.engine.dispose()

    def write(self, work: Callable[[Connection], T | None]) -> T | None:
        """Run ``work(conn)`` in one short transaction; None, and nothing changed, where it raises :class:`Stale`.

        It runs again where the database asks for that (a deadlock, a lock that was held too long), and on a new
        connection where the old one broke (a restart). Where the answer to a COMMIT was lost, the server is asked
        whether it took effect, so that a change recognises itself.

        :raises DatabaseNotMigrated: when the tables are missing or old.
        :raises DatabaseAway: when it cannot be reached, or is locked.
        :raises DatabaseError: for any other error of the database.
        """
        commit = _Commit[T]()

        def once() -> T | None:
            if commit.took_effect(self):
                return commit.result
            with self.engine.connect() as conn, _transaction(conn):
                commit.result = work(conn)
                commit.about_to_happen(conn)
            return commit.result

        try:
            return self._run(once, tries=_WRITE_TRIES)
        except Stale:
            return None

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work(conn)``, all of whose queries see the database as it was at one moment; it takes no write lock.

        It runs again on a new connection where the old one broke. Raises as :meth:`write` does.
        """

        def once() -> T:
            with self._reads.connect() as conn, conn.begin():
                return work(conn)

        return self._run(once, tries=2)

    def rows(self, query: sa.Executable, /, **params: Any) -> list[AnyRow]:
        """All rows of one query. Raises as :meth:`write` does."""

        def once() -> list[AnyRow]:
            with self._single.connect() as conn:
                return list(conn.execute(query, params))

        return self._run(once, tries=2)

    def row(self, query: sa.Executable, /, **params: Any) -> AnyRow | None:
        """The first row of one query, or None."""
        found = self.rows(query, **params)
        return found[0] if found else None

    def translate_error(self, error: sa.exc.SQLAlchemyError) -> ProgressError:
        """The library's error for one of SQLAlchemy's."""
        if isinstance(error, sa.exc.TimeoutError):
            return DatabaseAway(
                f"None of {self._limit} database connections of this process got free within {WAIT_SECONDS:g} s.",
                orig=error,
            )
        cause = getattr(error, "orig", None) or error
        if "invalid connection option" in str(cause):
            return InvalidSetting(f"progress_database_url: {str(cause).strip()}")
        if _not_migrated(cause):
            return DatabaseNotMigrated()
        # The first line: the others are of the statement, and may show what is in the rows.
        return (DatabaseAway if self._away(error) else DatabaseError)(self._sentence(cause), orig=cause)

    def _run(self, once: Callable[[], T], *, tries: int) -> T:
        with undisturbed():
            for left in reversed(range(tries)):
                try:
                    return once()
                except sa.exc.SQLAlchemyError as error:
                    again = getattr(error, "connection_invalidated", False) or _code(error) in _RETRY_CODES
                    if not left or not again:
                        raise self.translate_error(error) from getattr(error, "orig", None) or error
                time.sleep(0.01 * 2 ** (tries - left - 1))
        raise AssertionError("unreachable")

    def _away(self, error: sa.exc.SQLAlchemyError) -> bool:
        if getattr(error, "connection_invalidated", False):
            return True
        if self.dialect == "sqlite":
            return (getattr(getattr(error, "orig", None), "sqlite_errorcode", None) or 0) & 0xFF in _SQLITE_AWAY
        return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)

    def _sentence(self, cause: BaseException) -> str:
        said = str(cause).strip().split("\n", 1)[0]
        if self.dialect == "sqlite" and "locked" in said:
            return f"{said}: another process has held SQLite's write lock for too long; it may be frozen"
        return said

    @property
    def _limit(self) -> int:
        return 1 if self._url.in_memory else MAX_CONNECTIONS

    def _make_engine(self, hold_seconds: float | None) -> sa.Engine:
        idle = min(MAX_IDLE, self._limit)
        engine = sa.create_engine(
            self._url.for_sqlalchemy,
            connect_args=self._url.connect_args(hold_seconds),
            poolclass=sa.QueuePool,
            pool_size=idle,
            max_overflow=self._limit - idle,
            pool_timeout=WAIT_SECONDS,
            # The one that was used last, so that others grow old and what they hold is not needed.
            pool_use_lifo=True,
            # Results and arguments as Celery's own JSON has them: UUIDs, datetimes and Decimals come back as they were.
            json_serializer=dumps,
            json_deserializer=loads,
        )
        if self.dialect == "sqlite":
            sa.event.listen(engine, "do_connect", self._make_sqlite_file)
            sa.event.listen(engine, "connect", _set_up_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _make_sqlite_file(self, *_: Any) -> None:
        if self.path is not None:
            # Where it cannot be made, SQLite says so in its own words.
            with suppress(OSError):
                self._files.make_file(self.path)


class _Commit(Generic[T]):
    """What is known of a transaction whose COMMIT may have been lost on its way, or its answer."""

    def __init__(self) -> None:
        self.result: T | None = None
        self._transaction: int | None = None

    def about_to_happen(self, conn: Connection) -> None:
        """Note the transaction's number, by which the server knows its fate."""
        if conn.dialect.name == "postgresql":
            self._transaction = conn.execute(_CURRENT_TRANSACTION).scalar_one()

    def took_effect(self, database: Database) -> bool:
        """Whether the transaction of the try before was committed after all."""
        number, self._transaction = self._transaction, None
        if number is None:
            return False
        with database.engine.connect() as conn, _transaction(conn):
            return bool(conn.execute(_FATE, {"number": number}).scalar_one() == "committed")


_CURRENT_TRANSACTION = sa.text("SELECT txid_current_if_assigned()")
_FATE = sa.text("SELECT txid_status(:number)")


@contextmanager
def _transaction(conn: Connection) -> Iterator[None]:
    transaction = conn.begin()
    try:
        yield
        transaction.commit()
    except BaseException:
        # Where it broke, that fails too; SQLAlchemy invalidates the connection then.
        with suppress(Exception):
            transaction.rollback()
        raise


def _set_up_sqlite(dbapi: Any, _record: Any) -> None:
    # A transaction begins and ends only by a statement that says so.
    dbapi.isolation_level = None
    for pragma in _PRAGMAS:
        dbapi.execute(f"PRAGMA {pragma}")


_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "foreign_keys=ON",
    # 256 KB, not 2 MB a connection: a change touches a few pages, and the system's cache has the others.
    "cache_size=-256",
)


def _begin_sqlite(conn: Connection) -> None:
    conn.exec_driver_sql(conn.get_execution_options().get("begin", _BEGIN_WRITE))


def _code(error: BaseException) -> str | None:
    """PostgreSQL's code of an error: psycopg2 calls it ``pgcode``, psycopg 3 ``sqlstate``."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "pgcode", None) or getattr(cause, "sqlstate", None)


def _not_migrated(error: BaseException) -> bool:
    """Whether an error means that the tables are missing or old."""
    text = str(error).lower()
    return any(words in text for words in _MISSING) or _code(error) in _MISSING_CODES
