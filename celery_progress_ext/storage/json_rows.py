"""Many rows in one parameter: a JSON list of objects that a statement reads as a table."""

from __future__ import annotations


def json_rows(dialect: str, **columns: str) -> str:
    """A subquery with a row per object of the JSON list ``:rows``.

    :param columns: each column's name, which is the object's key, and its type in PostgreSQL. SQLite takes the types of
        the JSON.
    """
    if dialect == "sqlite":
        values = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
        return f"(SELECT {values} FROM json_each(:rows))"
    types = ", ".join(f"{name} {type}" for name, type in columns.items())
    return f"(SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS each ({types}))"
