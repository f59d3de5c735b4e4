"""Making and upgrading the schema with Alembic; the migrations are shipped in the wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext

from celery_progress_ext.log import get_logger
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.revisions import VERSION_TABLE, head, known

logger = get_logger(__name__)

SCRIPTS = Path(__file__).parent.parent / "migrations"
#: Serialises concurrent migrations on PostgreSQL (several machines deploying at once). Any constant will do.
_ADVISORY_LOCK = 0x63707865


def migrate(database: Database) -> str:
    """Upgrade the schema to the newest revision; a schema that is there already is left as it is. Returns the revision.

    A newer schema than this version of the library knows is left alone: its version may still be run for one step.
    Safe to run from several places at once: SQLite's write lock or an advisory lock of PostgreSQL serialises them.

    :raises DatabaseAway: when the database cannot be reached, or is locked.
    :raises DatabaseError: for any other error of the database.
    """
    try:
        with database.engine.connect() as connection, _foreign_keys_off(connection), connection.begin():
            if database.dialect == "postgresql":
                # A large table takes longer than any write of the library may.
                connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            return upgrade(connection, head())
    except sa.exc.DBAPIError as error:
        raise database.translate_error(error) from error


def upgrade(connection: sa.Connection, revision: str) -> str:
    """Upgrade the tables to ``revision``, in the connection's transaction, where they are older. Returns what they are
    at then.
    """
    found = _current(connection)
    if found is not None and found not in known():
        logger.warning("schema_is_newer", revision=found, known=head(), advice="upgrade celery-progress-ext")
        return found
    if found is not None and found >= revision:
        return found
    command.upgrade(config(connection), revision)
    return revision


@contextmanager
def _foreign_keys_off(connection: sa.Connection) -> Iterator[None]:
    """On SQLite, where Alembic rebuilds tables: dropping the old one would delete the rows that refer to it. The pragma
    takes effect only outside a transaction.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


def _current(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def config(connection: sa.Connection) -> Config:
    """Alembic's configuration for the library's migrations, on a connection and in its transaction."""
    made = Config()
    made.set_main_option("script_location", str(SCRIPTS))
    made.attributes["connection"] = connection
    return made
