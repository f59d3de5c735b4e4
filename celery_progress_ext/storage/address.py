"""Where a database is: what its URL names, how it is connected to, and what its driver's errors mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from celery_progress_ext.exceptions import InvalidSetting, MissingExtra

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
