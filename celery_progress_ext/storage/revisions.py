"""Which revision the tables are at, and which ones this version of the library knows. Asked without Alembic."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import sqlalchemy as sa

from celery_progress_ext.exceptions import DatabaseNotMigrated
from celery_progress_ext.storage.database import Database

#: A table name of our own: the host application may run Alembic in the same database.
VERSION_TABLE = "celery_progress_version"
_FILE = re.compile(r"r(\d{4})_\w+\.py")


def usable(database: Database) -> bool:
    """Whether this version of the library works on the tables: they are at its own revision, or at one that it does not
    know, which a newer version made so that this one goes on working.
    """
    found = current(database)
    return found is not None and (found == head() or found not in known())


def current(database: Database) -> str | None:
    """The revision that the database is at; None where the tables are missing."""
    try:
        row = database.row(sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE)))
    except DatabaseNotMigrated:
        return None
    return None if row is None else str(row.version_num)


def head() -> str:
    """The newest revision that this version of the library knows."""
    return known()[0]


@cache
def known() -> tuple[str, ...]:
    """Every revision of this version of the library, the newest first: numbers, which their files are named by."""
    names = (_FILE.fullmatch(path.name) for path in files("celery_progress_ext.migrations.versions").iterdir())
    return tuple(sorted((name[1] for name in names if name), reverse=True))
