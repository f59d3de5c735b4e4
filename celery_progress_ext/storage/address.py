"""Where a database is: what its URL names, how it is connected to, and what its driver's errors mean."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

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
#: What an SQLAlchemy URL may say to SQLite's driver; here the library does.
_SQLITE_DRIVER = frozenset(
    {"uri", "timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements"}
)
#: The parts of a PostgreSQL URL behind its scheme. User and password end where SQLAlchemy says, so a password may have
#: a slash or a percent sign in it, which libpq takes for something else.
_POSTGRES = re.compile(
    r"(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?(?P<hosts>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_HOST = re.compile(r"(?:\[[^]]*\]|[^:]*)(?::\d*)?")
#: Also where the server's own configuration says off: a commit that a crash forgets was told to readers already. Their
#: versions and percents would go back, and a job whose rows are forgotten never ends.
_POSTGRES_OPTIONS = "-c synchronous_commit=on"
#: A connection through a network that went away is given up within half a minute, not after TCP's quarter of an hour
#: (two where nothing was sent): heartbeats and the tick wait for it. Seconds, and milliseconds for the last.
_POSTGRES_CONNECT = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
#: PostgreSQL's codes of an error after which the connection is of no use: its own class, and a server that shuts down.
_LOST_CODES = ("08", "57P0")
#: SQLite's of one that goes away by itself, or with more room: busy, locked, read-only, I/O, full, can not open, and
#: a WAL that many open at once.
_SQLITE_AWAY = frozenset({5, 6, 8, 10, 13, 14, 15})


@dataclass(frozen=True)
class Address:
    """Where a database is. ``repr`` and messages never show it: it has the password."""

    dialect: str
    #: A path (``:memory:``), or libpq's URI, in which is also how the library wants to be connected.
    target: str

    def __repr__(self) -> str:
        return f"<{self.dialect} database>"

    @classmethod
    def of(cls, url: str) -> Address:
        """What a URL names, as SQLAlchemy writes it: ``sqlite:///relative``, ``sqlite:////absolute``, ``postgresql://…``.

        :raises InvalidSetting: for any other. The message shows neither user nor password.
        """
        scheme, separator, rest = url.partition("://")
        dialect, _, driver = scheme.partition("+")
        if separator and dialect == "sqlite" and driver in ("", "pysqlite"):
            return cls("sqlite", _sqlite_target(rest))
        # Hosters say `postgres:`.
        if separator and dialect in ("postgresql", "postgres") and driver in ("", "psycopg2"):
            return cls("postgresql", _postgres_target(rest))
        raise InvalidSetting(
            f"progress_database_url: {scheme!r} is not supported; use sqlite:///PATH or postgresql://…"
            if separator
            else "progress_database_url is no URL; use sqlite:///PATH or postgresql://…"
        )

    @property
    def in_memory(self) -> bool:
        """An SQLite database that is gone with its one connection."""
        if self.dialect != "sqlite":
            return False
        path, _, query = self.target.partition("?")
        return path in (":memory:", "file::memory:") or ("mode", "memory") in parse_qsl(query)

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
        try:
            opened = self.driver.connect(self.target)
        except self.driver.ProgrammingError as error:
            # An option that libpq does not know.
            raise InvalidSetting(f"progress_database_url: {str(error).strip()}") from error
        opened.autocommit = True
        return opened

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


def _sqlite_target(rest: str) -> str:
    if rest and not rest.startswith("/"):
        raise InvalidSetting("progress_database_url: an SQLite URL has three slashes, and four for an absolute path")
    path, _, query = rest[1:].partition("?")
    path = unquote(path)
    options = [(name, value) for name, value in parse_qsl(query) if name not in _SQLITE_DRIVER]
    if path.startswith("file:"):
        return f"{path}?{urlencode(options, quote_via=quote)}" if options else path
    if options:
        raise InvalidSetting("progress_database_url: options of an SQLite file are given as sqlite:///file:PATH?…")
    # Absolute: a task may change the working directory before the next connection is made.
    return ":memory:" if path in ("", ":memory:") else os.path.abspath(path)


def _postgres_target(rest: str) -> str:
    parts = _POSTGRES.fullmatch(rest)
    if parts is None or "@" in parts["hosts"]:
        raise InvalidSetting(
            "progress_database_url is no URL that PostgreSQL reads; in user and password"
            " write other characters than letters and digits as %XX"
        )
    query = parse_qsl(parts["query"] or "")
    options, hosts = dict(query), parts["hosts"]
    if "host" in options:
        options["host"] = ",".join(value for name, value in query if name == "host")
        # Hosts with ports have their place in libpq's URI; the folder of a socket stays an option.
        if not hosts and "/" not in options["host"]:
            hosts = options.pop("host")
    if not all(_HOST.fullmatch(host) for host in hosts.split(",")):
        raise InvalidSetting("progress_database_url: a host is followed by a colon and its port, which is a number")
    given = options.get("options", "")
    options = {**_POSTGRES_CONNECT, **options, "options": f"{given} {_POSTGRES_OPTIONS}".strip()}
    user, password, database = (quote(unquote(parts[name] or ""), safe="") for name in ("user", "password", "database"))
    account = f"{user}:{password}@" if password else f"{user}@" if user else ""
    return f"postgresql://{account}{hosts}/{database}?{urlencode(options, quote_via=quote)}"
