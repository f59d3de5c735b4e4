"""SQL that SQLite and PostgreSQL spell differently: the clock, and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

#: A JSON column: text on SQLite, JSONB on PostgreSQL.
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def parameter(name: str, type_: Any) -> sa.BindParameter[Any]:
    """The parameter ``new_<name>``: a column's new value, or a part of it."""
    return sa.bindparam(f"new_{name}", type_=type_)


def share_of(
    units: sa.ColumnElement[int], done: sa.ColumnElement[int], total: sa.ColumnElement[int]
) -> sa.ColumnElement[int]:
    """How many of ``units`` are done where ``done`` of ``total`` steps are, rounded down. Of numbers whose product an
    integer of the database might not hold, nearly.
    """
    small = sa.and_(units < _FACTOR_LIMIT, done < _FACTOR_LIMIT)
    return sa.case((small, units * done // total), else_=sa.cast(units * (done * 1.0 / total), sa.BigInteger))


#: Two factors below it have a product that an integer of eight bytes holds.
_FACTOR_LIMIT = sa.literal_column("2000000000", sa.BigInteger)


class now(FunctionElement[float]):  # lower case as SQLAlchemy's own functions
    """Seconds since the epoch on the database's clock, at the moment of the statement."""

    type = sa.Double()
    inherit_cache = True


class json_items(FunctionElement[Any]):
    """The items of a JSON list as rows; :func:`rows_of` makes a table of it."""

    inherit_cache = True


class among(FunctionElement[Any]):
    """Whether a column has one of the values of a scalar subquery. PostgreSQL, which would scan the table for a join
    or a long list, goes by the column's index for an array that it does not know beforehand.
    """

    # Not Boolean: for SQLite, which has none, SQLAlchemy would compare it with 1, and the index would go unused.
    inherit_cache = True


class json_object(FunctionElement[Any]):
    """A JSON object from names and values in turn."""

    inherit_cache = True


class json_value(FunctionElement[Any]):
    """JSON from a text parameter."""

    type = JSON
    inherit_cache = True


class with_chunk_processing(FunctionElement[Any]):
    """A job's metadata with another ``chunk_processing``; the rest of it stays."""

    type = JSON
    inherit_cache = True


#: How each is spelled: by SQLite, and by PostgreSQL. ``{0}`` is its first argument, ``{all}`` are all of them.
_SPELLINGS: Mapping[type[FunctionElement[Any]], tuple[str, str]] = {
    # julianday has a resolution well below a millisecond.
    now: (
        "((julianday('now') - 2440587.5) * 86400.0)",
        "extract(epoch from clock_timestamp())::double precision",
    ),
    json_items: ("json_each({all})", "jsonb_array_elements(CAST({all} AS jsonb))"),
    among: ("{0} IN {1}", "{0} = ANY(ARRAY{1})"),
    json_object: ("json_object({all})", "jsonb_build_object({all})"),
    json_value: ("{all}", "CAST({all} AS jsonb)"),
    with_chunk_processing: (
        "json_set({0}, '$.chunk_processing', {1})",
        "jsonb_set({0}, '{{chunk_processing}}', {1})",
    ),
}


def _spell(element: type[FunctionElement[Any]], dialect: str, spelling: str) -> None:
    @compiles(element, dialect)
    def _compile(each: FunctionElement[Any], compiler: SQLCompiler, **options: Any) -> str:
        arguments = [compiler.process(clause, **options) for clause in each.clauses]
        return spelling.format(*arguments, all=", ".join(arguments))


for _element, _spellings in _SPELLINGS.items():
    for _dialect, _spelling in zip(("sqlite", "postgresql"), _spellings, strict=True):
        _spell(_element, _dialect, _spelling)


def rows_of(parameter: str, name: str) -> sa.TableValuedAlias:
    """The JSON list of objects in a text parameter, as a table ``name`` with one column ``value``.

    One parameter for any number of rows, so that the statement is compiled once.
    """
    return json_items(sa.bindparam(parameter, type_=sa.Text)).table_valued(sa.column("value", JSON), name=name)
