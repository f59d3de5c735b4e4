"""The library's statements in a transaction that is the user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.json import dumps, loads


@contextmanager
def borrowed(database: Database, connection: Any) -> Iterator[Connection]:
    """A connection for the library's statements, in the transaction of the user's ``connection``, which it neither
    begins nor ends.

    :param connection: SQLAlchemy's, or a DB-API one of the driver that the library uses, to the same database.
    """
    if isinstance(connection, Connection):
        yield connection
        return
    with driver_connection(database.engine.url, connection) as conn:
        yield conn


@contextmanager
def driver_connection(url: sa.URL | str, connection: Any) -> Iterator[Connection]:
    """A DB-API connection as SQLAlchemy's, in its open transaction.

    :param url: names the dialect and the driver.
    """
    engine = sa.create_engine(
        url,
        creator=lambda: connection,
        poolclass=sa.StaticPool,
        pool_reset_on_return=None,
        json_serializer=dumps,
        json_deserializer=loads,
    )
    # What SQLAlchemy would say to the driver when its own transaction begins and ends, and when it closes.
    for name in ("do_begin", "do_commit", "do_rollback", "do_close", "do_terminate"):
        setattr(engine.dialect, name, _nothing)
    with engine.connect() as conn:
        yield conn


def _nothing(_connection: Any) -> None:
    """In place of what would touch the user's transaction."""
