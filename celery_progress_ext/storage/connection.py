"""Connections of the two drivers, sqlite3 and psycopg2, and the few of them that a process keeps.

Every statement of the library is text that goes through a driver's cursor. SQLAlchemy, which has the tables and the
migrations, would be here for its pool alone, at 11 MB in each worker, publisher and beat.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from celery_progress_ext.exceptions import DatabaseAway, InvalidSetting, MissingExtra

#: Connections of a process at once, and those that it keeps open for later.
MOST, KEPT = 15, 5
#: How long to wait for one while all are in use. Seconds.
WAIT_SECONDS = 30.0
#: The first SQLite that returns the rows which a statement changed.
_SQLITE = (3, 35)
#: How long SQLite waits for another process's write. Seconds.
_BUSY_SECONDS = 30.0
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "foreign_keys=ON",
    # 256 KB, not 2 MB a connection: a change touches a few pages, and the system's cache has the others.
    "cache_size=-256",
)
#: Also where the server's own configuration says off: a commit that a crash forgets was told to readers already. Their
#: versions and percents would go back, and a job whose rows are forgotten never ends.
_POSTGRES_OPTIONS = "-c synchronous_commit=on"
#: A connection through a network that went away is given up within half a minute, not after TCP's quarter of an hour
#: (two where nothing was sent): heartbeats and the tick wait for it. Seconds, and milliseconds for the last.
POSTGRES_CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
#: PostgreSQL's codes of an error after which the connection is of no use: its own class, and a server that shuts down.
_LOST_CODES = ("08", "57P0")
#: SQLite's of one that goes away by itself, or with more room: busy, locked, read-only, I/O, full, can not open.
_SQLITE_AWAY = frozenset({5, 6, 8, 10, 13, 14})


@dataclass(frozen=True)
class Address:
    """Where a database is. ``repr`` and messages never show it: it has the password."""

    dialect: str
    #: A path (``:memory:``), or libpq's URI.
    target: str

    def __repr__(self) -> str:
        return f"<{self.dialect} database>"

    @classmethod
    def of(cls, url: str) -> Address:
        """What a URL names, as SQLAlchemy writes it: ``sqlite:///relative``, ``sqlite:////absolute``, ``postgresql://…``.

        :raises InvalidSetting: for any other.
        """
        scheme, separator, rest = url.partition("://")
        dialect, _, driver = scheme.partition("+")
        if separator and dialect == "sqlite" and driver in ("", "pysqlite"):
            return cls("sqlite", _sqlite_path(rest))
        # Hosters say `postgres:`.
        if separator and dialect in ("postgresql", "postgres") and driver in ("", "psycopg2"):
            return cls("postgresql", f"postgresql://{rest}")
        raise InvalidSetting(
            f"progress_database_url: {scheme!r} is not supported; use sqlite:///PATH or postgresql://…"
            if separator
            else "progress_database_url is no URL; use sqlite:///PATH or postgresql://…"
        )

    @property
    def in_memory(self) -> bool:
        """An SQLite database that is gone with its one connection."""
        return self.dialect == "sqlite" and self.target == ":memory:"

    @cached_property
    def driver(self) -> Any:
        """The driver's module.

        :raises MissingExtra: without psycopg2.
        :raises InvalidSetting: where SQLite is too old.
        """
        if self.dialect == "sqlite":
            import sqlite3

            if sqlite3.sqlite_version_info < _SQLITE:
                needed, found = ".".join(map(str, _SQLITE)), sqlite3.sqlite_version
                raise InvalidSetting(
                    f"progress_database_url: SQLite {needed} or newer is needed, and this Python has {found};"
                    " use a newer one, or postgresql://…"
                )
            return sqlite3
        try:
            import psycopg2
        except ModuleNotFoundError as error:
            raise MissingExtra("PostgreSQL needs psycopg2: pip install 'celery-progress-ext[postgres]'") from error
        return psycopg2

    def connect(self) -> Any:
        """A new connection of the driver, on which a transaction begins and ends only by a statement that says so.

        The drivers begin theirs by themselves; SQLite's is then a deferred one, which loses updates between processes.
        """
        if self.dialect == "sqlite":
            uri = self.target.startswith("file:")
            opened = self.driver.connect(
                self.target, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=uri
            )
            for pragma in _PRAGMAS:
                opened.execute(f"PRAGMA {pragma}")
            return opened
        opened = self.driver.connect(self.target, **POSTGRES_CONNECT, options=self._postgres_options)
        opened.autocommit = True
        return opened

    @cached_property
    def _postgres_options(self) -> str:
        from psycopg2.extensions import parse_dsn

        try:
            parts = parse_dsn(self.target)
        except self.driver.ProgrammingError:
            parts = {"port": "unreadable"}
        # A slash in a password ends the host, and the driver would tell what it took for the port.
        if "port" in parts and not parts["port"].replace(",", "").isdecimal():
            raise InvalidSetting(
                "progress_database_url is no URL that PostgreSQL reads; in user and password"
                " write other characters than letters and digits as %XX"
            )
        return f"{parts.get('options', '')} {_POSTGRES_OPTIONS}".strip()

    def lost(self, error: BaseException, opened: Any) -> bool:
        """Whether a connection is of no use after this error of the driver."""
        if self.dialect == "sqlite":
            return False
        code = getattr(error, "pgcode", None) or ""
        return bool(opened.closed or isinstance(error, self.driver.InterfaceError) or code.startswith(_LOST_CODES))

    def away(self, error: BaseException) -> bool:
        """Whether this error of the driver is the server's or the file's, and may be gone later."""
        if self.dialect == "sqlite":
            return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _SQLITE_AWAY
        return isinstance(error, self.driver.OperationalError | self.driver.InterfaceError)


def _sqlite_path(rest: str) -> str:
    if rest and not rest.startswith("/"):
        raise InvalidSetting("progress_database_url: an SQLite URL has three slashes, and four for an absolute path")
    path, _, query = rest[1:].partition("?")
    if path.startswith("file:"):
        # SQLAlchemy's way to say that it is one is no option of SQLite's.
        options = "&".join(f"{name}={value}" for name, value in parse_qsl(query) if name != "uri")
        return f"{path}?{options}" if options else path
    if query:
        raise InvalidSetting("progress_database_url: options of an SQLite file are given as sqlite:///file:PATH?…")
    return path or ":memory:"


class Lost(Exception):
    """The connection broke under a statement; ``error`` is what the driver said."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Connection:
    """A driver's connection, in the hands of one thread."""

    def __init__(self, dialect: str, era: int) -> None:
        self.dialect = dialect
        #: Names of the statements that are prepared on it.
        self.prepared: set[str] = set()
        self.era = era
        self.dbapi: Any = None

    def cursor(self) -> Any:
        """A cursor of the driver."""
        return self.dbapi.cursor()

    def run(self, statement: str) -> None:
        """A statement that returns nothing, as it stands."""
        cursor = self.cursor()
        try:
            cursor.execute(statement)
        finally:
            cursor.close()

    def close(self) -> None:
        """Close it, whatever it says to that."""
        try:
            if self.dbapi is not None:
                self.dbapi.close()
        except Exception:  # it is broken, that is why
            return


#: Connections of the process that this one was forked from. Closing one would end the parent's, and a driver closes
#: what is not referred to any more.
_inherited: list[Connection] = []


class Pool:
    """The connections of this process to a database; shared by its threads, usable after a fork."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        # Weak: one that an exception between two lines has left behind is closed, and its place is free.
        self._busy: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._era = 0
        self._most = 1 if self._address.in_memory else MOST

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for one thing to do, outside any transaction before and after it.

        :raises Lost: where it broke meanwhile; the idle ones, which broke with it, are closed.
        """
        conn = self._take()
        fit = False
        try:
            yield conn
            fit = True
        except self._address.driver.Error as error:
            if self._address.lost(error, conn.dbapi):
                self.close_idle()
                raise Lost(error) from error
            # One that is in a transaction still could not be rolled back.
            fit = not self._in_transaction(conn)
            raise
        except BaseException:
            # An exception from outside (a soft time limit) may have come between any two lines.
            fit = not self._in_transaction(conn)
            raise
        finally:
            self._give_back(conn, fit=fit)

    def close_idle(self) -> None:
        """Close what is not in use, and what is as soon as it is given back."""
        self._after_a_fork()
        with self._changed:
            idle, self._idle = self._idle, []
            self._era += 1
        for conn in idle:
            conn.close()

    def _take(self) -> Connection:
        self._after_a_fork()
        deadline = time.monotonic() + WAIT_SECONDS
        with self._changed:
            while not self._idle and len(self._busy) >= self._most:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DatabaseAway(
                        f"None of {self._most} database connections of this process got free within {WAIT_SECONDS:g} s."
                    )
                # In slices: one that was left behind tells nobody.
                self._changed.wait(min(left, 1.0))
            # The one that was used last, so that others grow old and what they hold is not needed.
            conn = self._idle.pop() if self._idle else Connection(self._address.dialect, self._era)
            self._busy.add(conn)
        if conn.dbapi is None:
            try:
                conn.dbapi = self._address.connect()
            except BaseException:
                self._give_back(conn, fit=False)
                raise
        return conn

    def _give_back(self, conn: Connection, *, fit: bool) -> None:
        with self._changed:
            self._busy.discard(conn)
            keep = fit and conn.era == self._era and len(self._idle) < KEPT
            if keep:
                self._idle.append(conn)
            self._changed.notify()
        if not keep:
            conn.close()

    def _in_transaction(self, conn: Connection) -> bool:
        if self._address.dialect == "sqlite":
            return bool(conn.dbapi.in_transaction)
        return bool(conn.dbapi.closed or conn.dbapi.get_transaction_status() != 0)  # PQTRANS_IDLE

    def _after_a_fork(self) -> None:
        if self._pid != os.getpid():
            _inherited.extend((*self._idle, *self._busy))
            self._begin_anew()
