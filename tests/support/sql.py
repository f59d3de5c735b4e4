"""SQL as text, for what tests look at or change behind the library's back."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.storage import Database
from celery_progress_ext.storage.expressions import now

Row = dict[str, Any]


def execute(conn: Connection, text: str, /, **params: Any) -> list[Row]:
    """One statement, and the rows that it returns. ``{now}`` in it is the database's clock."""
    clock = str(now().compile(dialect=conn.dialect))
    # A colon of a cast is not a parameter.
    statement = sa.text(text.replace("{now}", clock).replace("::", "\\:\\:"))
    result = conn.execute(statement, params)
    return [dict(row._mapping) for row in result] if result.returns_rows else []


def rows(database: Database, text: str, /, **params: Any) -> list[Row]:
    """All rows of a query."""
    return database.read(lambda conn: execute(conn, text, **params))


def row(database: Database, text: str, /, **params: Any) -> Row | None:
    """The first row of a query, or None."""
    found = rows(database, text, **params)
    return found[0] if found else None
