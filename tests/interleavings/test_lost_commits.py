"""The connection breaks at a write's COMMIT: before it took effect, or before the answer came (G9).

Either way the caller is told the same as if nothing had happened, and the rows are the same: nothing is done twice, and
nobody takes its own change for another's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from tests.interleavings.explorer import broken_invariants, forget
from tests.interleavings.writes import STATES, WRITES, Write
from tests.support import sql
from tests.support.rows import Rows


@contextmanager
def _first_commit_breaks(rows: Rows, *, took_effect: bool) -> Iterator[None]:
    dialect: Any = rows.database.engine.dialect
    commit = dialect.do_commit

    def breaks(connection: Any) -> None:
        dialect.do_commit = commit
        if took_effect:
            commit(connection)
        connection.close()
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    dialect.do_commit = breaks
    try:
        yield
    finally:
        dialect.do_commit = commit


@pytest.fixture
def rows(postgres_url: str) -> Iterator[Rows]:
    """A migrated database of the test's own."""
    made = Rows(postgres_url)
    yield made
    made.database.dispose()


@pytest.mark.parametrize("took_effect", [True, False], ids=["answer_lost", "commit_lost"])
@pytest.mark.parametrize("state", STATES)
def test_a_commit_that_breaks_is_as_one_that_does_not(rows: Rows, state: str, took_effect: bool) -> None:
    """Every write, compared with the same one on a job of the same state whose COMMIT went well."""
    for name, write in WRITES.items():
        expected = _done(rows, write, STATES[state](rows))
        job_id = STATES[state](rows)
        with _first_commit_breaks(rows, took_effect=took_effect):
            done = _done(rows, write, job_id)
        assert done == expected, f"from {state}: {name}"


def _done(rows: Rows, write: Write, job_id: str) -> list[Any]:
    """What its caller is told, and the rows that it makes; of times only that there are some."""
    result = write(rows, job_id)
    told = result if isinstance(result, bool | int | None) else type(result).__name__
    found = [row for query in _ROWS for row in sql.rows(rows.database, query, id=job_id)]
    assert broken_invariants(rows, job_id) == []
    forget(rows, job_id)
    return [
        told,
        *(
            {name: "a time" if isinstance(value, float) else str(value).replace(job_id, "JOB") for name, value in row}
            for row in ([item for item in row.items() if item[0] != "id"] for row in found)
        ),
    ]


_ROWS = (
    "SELECT * FROM processing_jobs WHERE id = :id",
    "SELECT * FROM document_ocr_chunks WHERE job_id = :id ORDER BY chunk_index",
    "SELECT * FROM job_events WHERE job_id = :id ORDER BY version, chunk_index",
)
