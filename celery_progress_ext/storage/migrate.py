"""Making and upgrading the schema with Alembic; the migrations are shipped in the wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from celery_progress_ext.log import get_logger
from celery_progress_ext.storage.engine import Database

logger = get_logger(__name__)

_SCRIPTS = Path(__file__).parent.parent / "migrations"
#: Serialises concurrent migrations on PostgreSQL (several machines deploying at once). Any constant will do.
_ADVISORY_LOCK = 0x63707865


def migrate(database: Database) -> str:
    """Upgrade the schema to the newest revision; nothing happens where it is there. Returns the revision.

    A newer schema than this version of the library knows is left alone: its version may still be run for one step.
    Safe to run from several places at once: SQLite's write lock or an advisory lock of PostgreSQL serialises them.
    """
    with database.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        found = _current(connection)
        if found is not None and found not in _known():
            logger.warning("schema_is_newer", revision=found, known=head(), advice="upgrade celery-progress-ext")
            return found
        command.upgrade(_config(connection), "head")
    return head()


def usable(database: Database) -> bool:
    """Whether this version of the library works on the tables: they are at its own revision or the one before it, or
    at one that it does not know, which a newer version made so that this one goes on working.
    """
    found = current(database)
    return found is not None and (found in _known()[:2] or found not in _known())


def current(database: Database) -> str | None:
    """The revision that the database is at; None where the tables are missing."""
    with database.reading() as connection:
        return _current(connection)


def head() -> str:
    """The newest revision that this version of the library knows."""
    return _known()[0]


@cache
def _known() -> tuple[str, ...]:
    """Every revision of this version of the library, the newest first."""
    return tuple(script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions())


def _current(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(
        connection, opts={"version_table": "celery_progress_version"}
    ).get_current_revision()


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    return config
