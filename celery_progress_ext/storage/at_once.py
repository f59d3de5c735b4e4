"""A chunk's completion as one statement of PostgreSQL: chunk, job and event in one round trip instead of six.

It is what ``chunks.complete_all`` does in a transaction of several statements: on SQLite, where a statement is a
function call, and for many chunks together, which share them. It is built from the same texts, so that one rule says
what a completion changes. A data-modifying CTE has no other way to hand values on than columns, so the parameters of
the job's statement become expressions over the chunk's.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.eta import MAX_PACE, MAX_PAGES, MIN_PACE
from celery_progress_ext.history import EventType
from celery_progress_ext.storage.counters import COUNTING, DELTAS, MOVE_BY_DIALECT
from celery_progress_ext.storage.database import NAMED

#: What is told of the chunk: not its signature nor its result, large JSON that nobody reads from a completion.
_CHUNK = (
    "id",
    "job_id",
    "chunk_index",
    "page_start",
    "page_end",
    "status",
    "attempt",
    "dispatches",
    "task_id",
    "error",
)

# eta.Pace.of in SQL; test_storage holds them together.
_PAGES = "(c_page_end - c_page_start + 1)"
_PACE_PAGES = f"LEAST(GREATEST(1, {_PAGES}), {MAX_PAGES})"
_PACE = f"(LEAST(GREATEST(:seconds, {MIN_PACE} * {_PACE_PAGES}), {MAX_PACE} * {_PACE_PAGES}) / {_PACE_PAGES})"


def completion(changes: str, olds: Collection[ChunkStatus]) -> str:
    """The statement that completes the chunk ``:id``.

    Its one row is the job's, with ``now``, and the chunk's, whose columns begin with ``c_``. There is none where the
    chunk has another status than ``olds``, or the job does not count any more. It locks the chunk before the job, as
    every transaction does.

    :param changes: the ``SET`` list for the chunk.
    """
    return f"""
    WITH was AS (
        SELECT id AS was_id, job_id AS was_job, status AS was_status, pages_done AS was_done
        FROM document_ocr_chunks
        WHERE id = :id AND status IN ({", ".join(f"'{old}'" for old in sorted(olds))}) FOR UPDATE
    ), counts AS (
        SELECT id AS job FROM processing_jobs WHERE id = (SELECT was_job FROM was)
        AND {COUNTING} FOR UPDATE
    ), chunk AS (
        UPDATE document_ocr_chunks SET pages_done = page_end - page_start + 1, {changes}
        FROM was, counts WHERE id = was_id
        RETURNING was_status, was_done, {", ".join(f"{name} AS c_{name}" for name in _CHUNK)}
    ), moved AS (
        {NAMED.sub(_expression, MOVE_BY_DIALECT["postgresql"].replace("WHERE id", "FROM chunk WHERE id"))}
        RETURNING processing_jobs.*, {{now}} AS now, {", ".join(f"c_{name}" for name in _CHUNK)}
    ), told AS (
        INSERT INTO job_events (job_id, version, type, at, chunk_index, attempt, eta_finish_at)
        SELECT id, version, '{EventType.CHUNK_COMPLETED}', {{now}}, c_chunk_index, c_attempt,
            CAST(:eta AS double precision) FROM moved
    )
    SELECT * FROM moved
    """


_EXPRESSIONS = {
    **{
        delta: f"(-CAST(was_status = '{status}' AS integer))"
        for status, delta in DELTAS.items()
        if status is not ChunkStatus.COMPLETED
    },
    DELTAS[ChunkStatus.COMPLETED]: "1",
    "changes": "1",
    "job_id": "c_job_id",
    "chunk_index": "c_chunk_index",
    "page_start": "c_page_start",
    "page_end": "c_page_end",
    "pages": f"({_PAGES} - was_done)",
    "pace_chunks": "CAST(:timed AS integer)",
    "pace_pages": f"CAST(:timed AS integer) * {_PACE_PAGES}",
    "pace_seconds": f"CAST(:timed AS integer) * {_PACE} * {_PACE_PAGES}",
    "pace_sum_log": f"CAST(:timed AS integer) * ln({_PACE})",
    "pace_sum_log_sq": f"CAST(:timed AS integer) * ln({_PACE}) ^ 2",
}


def _expression(name: re.Match[str]) -> str:
    return _EXPRESSIONS.get(name[1], name[0])
