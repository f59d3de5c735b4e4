"""Making and upgrading the schema with Alembic; the migrations are shipped in the wheel."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from celery_progress_ext.storage.engine import Database

_SCRIPTS = Path(__file__).parent.parent / "migrations"
#: Serialises concurrent migrations on PostgreSQL (several machines deploying at once). Any constant will do.
_ADVISORY_LOCK = 0x63707865


def migrate(database: Database) -> str:
    """Upgrade the schema to the newest revision; nothing happens where it is there. Returns the revision.

    Safe to run from several places at once: SQLite's write lock or an advisory lock of PostgreSQL serialises them.
    """
    with database.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        command.upgrade(_config(connection), "head")
    return head()


def current(database: Database) -> str | None:
    """The revision that the database is at; None where the tables are missing."""
    with database.reading() as connection:
        return MigrationContext.configure(
            connection, opts={"version_table": "celery_progress_version"}
        ).get_current_revision()


def head() -> str:
    """The newest revision that this version of the library knows."""
    revision = ScriptDirectory(str(_SCRIPTS)).get_current_head()
    assert revision is not None
    return revision


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    return config
