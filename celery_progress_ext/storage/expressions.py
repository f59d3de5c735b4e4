"""SQL that SQLite and PostgreSQL spell differently: the clock, and JSON."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

#: A JSON column: text on SQLite, JSONB on PostgreSQL.
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


class now(FunctionElement[float]):  # lower case as SQLAlchemy's own functions
    """Seconds since the epoch on the database's clock, at the moment of the statement."""

    type = sa.Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **_: Any) -> str:
    # julianday has a resolution well below a millisecond.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: SQLCompiler, **_: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


class json_items(FunctionElement[Any]):
    """The items of a JSON list as rows; :func:`rows_of` makes a table of it."""

    inherit_cache = True


@compiles(json_items, "sqlite")
def _json_items_sqlite(element: json_items, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(json_items, "postgresql")
def _json_items_postgresql(element: json_items, compiler: SQLCompiler, **options: Any) -> str:
    return f"jsonb_array_elements(CAST({compiler.process(element.clauses, **options)} AS jsonb))"


def rows_of(parameter: str, name: str) -> sa.TableValuedAlias:
    """The JSON list of objects in a text parameter, as a table ``name`` with one column ``value``.

    One parameter for any number of rows, so that the statement is compiled once.
    """
    return json_items(sa.bindparam(parameter, type_=sa.Text)).table_valued(sa.column("value", JSON), name=name)


class among(FunctionElement[Any]):
    """Whether a column has one of the values of a scalar subquery. PostgreSQL, which would scan the table for a join
    or a long list, goes by the column's index for an array that it does not know beforehand.
    """

    # Not Boolean: for SQLite, which has none, SQLAlchemy would compare it with 1, and the index would go unused.
    inherit_cache = True


@compiles(among, "sqlite")
def _among_sqlite(element: among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN {values}"


@compiles(among, "postgresql")
def _among_postgresql(element: among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} = ANY(ARRAY{values})"


class json_object(FunctionElement[Any]):
    """A JSON object from names and values in turn."""

    inherit_cache = True


@compiles(json_object, "sqlite")
def _json_object_sqlite(element: json_object, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_object({compiler.process(element.clauses, **options)})"


@compiles(json_object, "postgresql")
def _json_object_postgresql(element: json_object, compiler: SQLCompiler, **options: Any) -> str:
    return f"jsonb_build_object({compiler.process(element.clauses, **options)})"


class with_chunk_processing(FunctionElement[Any]):
    """A job's metadata with another ``chunk_processing``; the rest of it stays."""

    type = JSON
    inherit_cache = True


@compiles(with_chunk_processing, "sqlite")
def _with_chunk_processing_sqlite(element: with_chunk_processing, compiler: SQLCompiler, **options: Any) -> str:
    metadata, value = (compiler.process(clause, **options) for clause in element.clauses)
    return f"json_set({metadata}, '$.chunk_processing', {value})"


@compiles(with_chunk_processing, "postgresql")
def _with_chunk_processing_postgresql(element: with_chunk_processing, compiler: SQLCompiler, **options: Any) -> str:
    metadata, value = (compiler.process(clause, **options) for clause in element.clauses)
    return f"jsonb_set({metadata}, '{{chunk_processing}}', {value})"
