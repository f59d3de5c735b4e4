"""Which database a URL names, and how the library connects to it."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from celery_progress_ext.exceptions import InvalidSetting, MissingExtra

#: The first SQLite that returns the rows which a statement changed.
_SQLITE = (3, 35)
#: How long SQLite waits for another process's write. Seconds.
BUSY_SECONDS = 30.0
#: A dialect's drivers, the first unless the URL says otherwise, and the extra that brings it.
_DRIVERS = {"sqlite": ("pysqlite",), "postgresql": ("psycopg2", "psycopg")}
#: A connection through a network that went away is given up within half a minute, not after TCP's quarter of an hour
#: (two where nothing was sent): heartbeats and the tick wait for it. Seconds, and milliseconds for the last.
_POSTGRES_CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A URL as SQLAlchemy writes it: ``sqlite:///relative``, ``sqlite:////absolute``, ``postgresql://…``."""

    for_sqlalchemy: URL

    @classmethod
    def parse(cls, url: str) -> DatabaseUrl:
        """What ``url`` names.

        :raises InvalidSetting: for one that the library cannot use. The message shows neither user nor password.
        """
        # Hosters say `postgres:`.
        if url.startswith("postgres:"):
            url = f"postgresql{url.removeprefix('postgres')}"
        try:
            made = sa.make_url(url)
        except (sa.exc.ArgumentError, ValueError):
            raise InvalidSetting(
                "progress_database_url is no URL that SQLAlchemy reads; use sqlite:///PATH or"
                " postgresql://USER:PASSWORD@HOST:PORT/NAME, and in user and password write other characters than"
                " letters and digits as %XX; several hosts are ?host=A:5432&host=B:5432"
            ) from None
        dialect, _, driver = made.drivername.partition("+")
        if dialect not in _DRIVERS or (driver and driver not in _DRIVERS[dialect]):
            raise InvalidSetting(
                f"progress_database_url: {made.drivername!r} is not supported; use sqlite:///PATH or postgresql://…"
            )
        _require_driver(dialect, driver or _DRIVERS[dialect][0])
        made = made.set(drivername=f"{dialect}+{driver or _DRIVERS[dialect][0]}")
        return cls(_sqlite(made) if dialect == "sqlite" else made)

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.for_sqlalchemy.get_backend_name()

    @property
    def in_memory(self) -> bool:
        """An SQLite database that is gone with its one connection."""
        if self.dialect != "sqlite":
            return False
        path = self.for_sqlalchemy.database or ":memory:"
        return path in (":memory:", "file::memory:") or self.for_sqlalchemy.query.get("mode") == "memory"

    @property
    def path(self) -> Path | None:
        """Of an SQLite database in a file that is named by its path; None for any other."""
        named = self.for_sqlalchemy.database
        if self.dialect != "sqlite" or self.in_memory or named is None or named.startswith("file:"):
            return None
        return Path(named)

    def connect_args(self, hold_seconds: float | None) -> dict[str, Any]:
        """What the driver is given beside the URL; what the URL says of the same wins.

        :param hold_seconds: see :class:`Database`.
        """
        if self.dialect == "sqlite":
            return {"timeout": BUSY_SECONDS, "check_same_thread": False}
        given = self.for_sqlalchemy.query
        said = str(given.get("options", ""))
        options = " ".join(f"-c {name}={value}" for name, value in _session(hold_seconds).items() if name not in said)
        args = {name: value for name, value in _POSTGRES_CONNECT.items() if name not in given}
        return {**args, "options": f"{options} {said}".strip()}


def _session(hold_seconds: float | None) -> dict[str, Any]:
    """The settings of a PostgreSQL session."""
    # Override the server's setting: readers may already have seen a commit that a crash would lose.
    settings: dict[str, Any] = {"synchronous_commit": "on"}
    if hold_seconds is not None:
        hold = max(1, round(hold_seconds * 1000))
        settings |= {
            "idle_in_transaction_session_timeout": hold,
            "lock_timeout": hold,
            "statement_timeout": round(1.8 * hold),
            # A client whose host lost power does not answer: the server notices, and lets go of its locks.
            "tcp_keepalives_idle": max(1, round(hold_seconds / 2)),
            "tcp_keepalives_interval": max(1, round(hold_seconds / 6)),
            "tcp_keepalives_count": 3,
            "tcp_user_timeout": hold,
        }
    return settings


def _require_driver(dialect: str, driver: str) -> None:
    if dialect == "sqlite":
        if sqlite3.sqlite_version_info < _SQLITE:
            needed, found = ".".join(map(str, _SQLITE)), sqlite3.sqlite_version
            raise InvalidSetting(
                f"progress_database_url: SQLite {needed} or newer is needed, and this Python has {found};"
                " use a newer one, or postgresql://…"
            )
        return
    try:
        __import__(driver)
    except ModuleNotFoundError as error:
        extra = "postgres" if driver == "psycopg2" else "psycopg"
        raise MissingExtra(
            f"PostgreSQL needs {driver}; install celery-progress-ext with its extra `{extra}`"
        ) from error


def _sqlite(url: URL) -> URL:
    if url.host:
        raise InvalidSetting("progress_database_url: an SQLite URL has three slashes, and four for an absolute path")
    path = url.database or ":memory:"
    if path.startswith("file:") or path == ":memory:":
        return url
    if "mode" in url.query:
        raise InvalidSetting(
            "progress_database_url: options of an SQLite file are given as sqlite:///file:PATH?…&uri=true"
        )
    # Absolute: a task may change the working directory before the next connection is made.
    return url.set(database=os.path.abspath(path))
