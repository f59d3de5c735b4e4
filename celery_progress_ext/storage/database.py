"""The database: statements in transactions, SQLite that loses no update, and the clock."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from celery_progress_ext.exceptions import DatabaseAway, DatabaseError, DatabaseNotMigrated
from celery_progress_ext.storage.address import Address
from celery_progress_ext.storage.connection import Connection, Lost, Pool

if TYPE_CHECKING:
    import sqlalchemy as sa

T = TypeVar("T")


class Stale(Exception):
    """The change no longer applies (the run is over, its merge has begun): roll back, as if it had not been asked."""


#: Seconds since the epoch on the database's clock. julianday has a resolution well below a millisecond.
_NOW = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}
#: How a transaction begins that writes. SQLite's own deferred BEGIN loses updates between processes.
_BEGIN = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN"}
#: And one that sees one moment. SQLite's does by itself, in WAL mode.
_BEGIN_ONE_MOMENT = {"sqlite": "BEGIN", "postgresql": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}
#: PostgreSQL codes of an error that goes away when the transaction runs again: serialization failure, deadlock.
_RETRY_CODES = frozenset({"40001", "40P01"})
_WRITE_TRIES = 4
#: A named parameter, and not a cast.
NAMED = re.compile(r"(?<!:):([a-z_]+)")


class Database:
    """Where jobs, chunks and events are kept: SQLite or PostgreSQL, by URL.

    Shared by the threads of a process, safe to inherit through a fork.

    :raises InvalidSetting: for a URL that is not one of these.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._address = Address.of(url)
        self.dialect = self._address.dialect
        self._pool = Pool(self._address)

    def __repr__(self) -> str:
        return f"Database({self._address!r})"

    @cached_property
    def engine(self) -> sa.Engine:
        """The same database for SQLAlchemy, which is loaded with it: for migrations, and queries of one's own."""
        from celery_progress_ext.storage.alchemy import make_engine

        return make_engine(self._address, self._pool)

    def load_driver(self) -> None:
        """Import the driver, which else comes with the first connection.

        :raises MissingExtra: where it is not installed.
        """
        _ = self._address.driver

    def dispose(self) -> None:
        """Close every connection of this process that is not in use."""
        self._pool.close_idle()
        if self._address.in_memory:
            self.__dict__.pop("engine", None)  # its connection was that one

    def connection(self) -> AbstractContextManager[Connection]:
        """A connection on which each statement is a transaction of its own."""
        return self._pool.connection()

    def write(self, work: Callable[[Connection], T | None], *, single: bool = False) -> T | None:
        """Run ``work(conn)`` in one short transaction; None, and nothing changed, where it raises :class:`Stale`.

        ``single`` says that on PostgreSQL it is one statement: that is a transaction without being told so.

        It runs again where the database asks for that (a deadlock), and on a new connection where the old one broke
        (a restart). Changes are guarded, so one that was committed after all takes no effect a second time.

        :raises DatabaseNotMigrated: when the tables are missing or old.
        :raises DatabaseAway: when it can not be reached, or is locked.
        :raises DatabaseError: whatever else it says.
        """
        alone = single and self.dialect == "postgresql"
        try:
            return self._run(work, None if alone else _BEGIN[self.dialect], tries=_WRITE_TRIES)
        except Stale:
            return None

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work(conn)``, all of whose queries see the database as it was at one moment; it takes no write lock.

        It runs again on a new connection where the old one broke. Raises as :meth:`write` does.
        """
        return self._run(work, _BEGIN_ONE_MOMENT[self.dialect], tries=2)

    def rows(self, query: str, /, **params: Any) -> list[Row]:
        """All rows of a query. ``{now}`` in it is the database's clock. Raises as :meth:`write` does."""
        return self._run(lambda conn: execute(conn, query, **params), None, tries=2)

    def row(self, query: str, /, **params: Any) -> Row | None:
        """The first row of a query, or None."""
        found = self.rows(query, **params)
        return found[0] if found else None

    def told(self, error: Exception, *, lost: bool = False) -> DatabaseError | DatabaseNotMigrated:
        """What to raise for an error of the driver.

        :param lost: the connection broke with it, whatever the driver calls it.
        """
        if _not_migrated(error):
            return DatabaseNotMigrated()
        kind = DatabaseAway if lost or self._address.away(error) else DatabaseError
        # The first line: the others are of the statement.
        return kind(str(error).strip().split("\n", 1)[0], orig=error)

    def _run(self, work: Callable[[Connection], T], begin: str | None, *, tries: int) -> T:
        for left in reversed(range(tries)):
            try:
                with self._pool.connection() as conn:
                    if begin is None:
                        return work(conn)
                    with _transaction(conn, begin):
                        return work(conn)
            except Lost as lost:
                if not left:
                    raise self.told(lost.error, lost=True) from lost.error
            except self._address.driver.Error as error:
                if not left or getattr(error, "pgcode", None) not in _RETRY_CODES:
                    raise self.told(error) from error
            time.sleep(0.01 * 2 ** (tries - left - 1))
        raise AssertionError("unreachable")


@contextmanager
def _transaction(conn: Connection, begin: str) -> Iterator[None]:
    conn.run(begin)
    try:
        yield
        conn.run("COMMIT")
    except BaseException:
        # Where it broke, that fails too: the pool looks whether it is in a transaction still, and closes it.
        with suppress(Exception):
            conn.run("ROLLBACK")
        raise


#: A row as a mapping from its column names.
Row = dict[str, Any]


@lru_cache(maxsize=512)
def _statement(text: str, dialect: str) -> str:
    text = text.replace("{now}", _NOW[dialect])
    return text if dialect == "sqlite" else NAMED.sub(r"%(\1)s", text)


def execute(conn: Connection, text: str, /, **params: Any) -> list[Row]:
    """One statement on ``conn``, and the rows that it returns. ``{now}`` in it is the database's clock.

    :raises Error: the driver's.
    """
    cursor: Any = conn.cursor()
    try:
        cursor.execute(_statement(text, conn.dialect), params)
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
    if name not in conn.prepared:
        _prepare(conn, prepare)
        conn.prepared.add(name)
    try:
        return execute_one(conn, run, **params)
    except Exception as error:
        if getattr(error, "pgcode", None) != _NOT_PREPARED:
            raise
    _prepare(conn, prepare)
    return execute_one(conn, run, **params)


_NOT_PREPARED, _PREPARED_ALREADY = "26000", "42P05"


def _prepare(conn: Connection, prepare: str) -> None:
    try:
        execute(conn, prepare)
    except Exception as error:
        if getattr(error, "pgcode", None) != _PREPARED_ALREADY:
            raise


@lru_cache(maxsize=32)
def _prepared(text: str) -> tuple[str, str, str]:
    """Its name, the statement that prepares it, and the one that runs it, with named parameters."""
    names = list(dict.fromkeys(NAMED.findall(text)))
    name = "cpx_" + hashlib.sha256(text.encode()).hexdigest()[:16]
    numbered = NAMED.sub(lambda found: f"${names.index(found[1]) + 1}", text)
    return name, f"PREPARE {name} AS {numbered}", f"EXECUTE {name} ({', '.join(':' + each for each in names)})"


#: How SQLite says that a table or a column is not there, and PostgreSQL's codes for it.
_MISSING = ("no such table", "no such column", "has no column named")
_MISSING_CODES = frozenset({"42P01", "42703"})


def _not_migrated(error: Exception) -> bool:
    """Whether an error means that the tables are missing or old."""
    text = str(error).lower()
    return any(words in text for words in _MISSING) or getattr(error, "pgcode", None) in _MISSING_CODES
