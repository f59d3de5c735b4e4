"""The one statement that moves a job's counters when chunks changed: O(1), whatever the number of chunks."""

from __future__ import annotations

from collections.abc import Collection

from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.eta import Pace
from celery_progress_ext.stages import Stage, StageName, stage
from celery_progress_ext.storage.connection import Connection
from celery_progress_ext.storage.database import Row, execute_one

#: What a change adds to the job's pace that is no finished chunk, or one whose time is not known.
_NO_PACE = Pace()

#: JSON of the story's ``metadata["chunk_processing"]``, set in place so that the rest of the metadata stays.
_CHUNK_PROCESSING = {
    "sqlite": """json_set(metadata, '$.chunk_processing', json_object(
        'total_chunks', total_chunks, 'completed_chunks', completed_chunks + :completed,
        'failed_chunks', failed_chunks + :failed, 'current_chunk_index', :chunk_index,
        'current_page_range', json_object('start', :page_start, 'end', :page_end)))""",
    "postgresql": """jsonb_set(metadata, '{chunk_processing}', jsonb_build_object(
        'total_chunks', total_chunks, 'completed_chunks', completed_chunks + :completed,
        'failed_chunks', failed_chunks + :failed, 'current_chunk_index', CAST(:chunk_index AS integer),
        'current_page_range', jsonb_build_object('start', CAST(:page_start AS integer),
                                                 'end', CAST(:page_end AS integer))))""",
}


def message_sql(row: Stage, *, completed: str, total: str) -> str:
    """The stage's message as an SQL expression, from the same format string as everywhere."""
    parts = {"completed": f"CAST({completed} AS TEXT)", "total": f"CAST({total} AS TEXT)"}
    text = "'" + row.message.replace("'", "''") + "'"
    for name, expression in parts.items():
        text = text.replace("{" + name + "}", f"' || {expression} || '")
    return text


#: The job counts what its chunks do: its run is not over, and its merge has not begun.
COUNTING = f"status IN ('PENDING', 'PROCESSING') AND stage_name <> '{StageName.MERGE}'"
_CHUNKS = stage(StageName.CHUNK_PROCESSING)
#: The change of the job's row. :func:`move` fills in its parameters; ``at_once`` puts expressions in their place.
_MOVE = f"""
UPDATE processing_jobs SET
    status = 'PROCESSING',
    stage_name = '{StageName.CHUNK_PROCESSING}',
    stage = {message_sql(_CHUNKS, completed="(completed_chunks + :completed)", total="total_chunks")},
    pending_chunks = pending_chunks + :pending,
    processing_chunks = processing_chunks + :processing,
    completed_chunks = completed_chunks + :completed,
    failed_chunks = failed_chunks + :failed,
    pages_done = pages_done + :pages,
    progress_pct = (completed_chunks + :completed) * 100 / total_chunks,
    metadata = METADATA,
    chord_intact = chord_intact AND :intact,
    body_due_at = CASE WHEN completed_chunks + failed_chunks + :completed + :failed = total_chunks
                       THEN {{now}} + :grace ELSE NULL END,
    pace_chunks = pace_chunks + :pace_chunks,
    pace_pages = pace_pages + :pace_pages,
    pace_seconds = pace_seconds + :pace_seconds,
    pace_sum_log = pace_sum_log + :pace_sum_log,
    pace_sum_log_sq = pace_sum_log_sq + :pace_sum_log_sq,
    started_at = COALESCE(started_at, {{now}}),
    updated_at = {{now}},
    version = version + :changes
WHERE id = :job_id AND {COUNTING}
"""
MOVE_BY_DIALECT = {dialect: _MOVE.replace("METADATA", json) for dialect, json in _CHUNK_PROCESSING.items()}
_RETURNING = "RETURNING *, {now} AS now"

#: The counter of each status, as ``MOVE_BY_DIALECT`` calls what it grows by.
DELTAS = {
    ChunkStatus.PENDING: "pending",
    ChunkStatus.PROCESSING: "processing",
    ChunkStatus.COMPLETED: "completed",
    ChunkStatus.FAILED: "failed",
}


def move(
    conn: Connection,
    chunk: Row,
    *,
    old: ChunkStatus,
    new: ChunkStatus,
    pages: int = 0,
    intact: bool = True,
    grace: float = 0.0,
) -> Row | None:
    """Count one chunk's change from ``old`` to ``new`` and ``pages`` more done; as :func:`move_all`."""
    return move_all(conn, chunk, olds=(old,), new=new, pages=pages, intact=intact, grace=grace)


def move_all(
    conn: Connection,
    newest: Row,
    *,
    olds: Collection[ChunkStatus],
    new: ChunkStatus,
    pages: int = 0,
    intact: bool = True,
    grace: float = 0.0,
    pace: Pace = _NO_PACE,
) -> Row | None:
    """Count the change of a job's chunks from ``olds``, a status each, to ``new``, and ``pages`` more done.

    Each change is a version of its own, as its event says. ``newest`` is the chunk that is told as the current one.

    Returns the job's row with ``now``, or None where the run is over or its merge has begun: the counts are then
    frozen, because they say what is in the merged file, and the caller rolls back.
    """
    deltas = dict.fromkeys(DELTAS.values(), 0)
    for old in olds:
        deltas[DELTAS[old]] -= 1
    deltas[DELTAS[new]] += len(olds)
    return execute_one(
        conn,
        MOVE_BY_DIALECT[conn.dialect] + _RETURNING,
        job_id=newest["job_id"],
        chunk_index=newest["chunk_index"],
        page_start=newest["page_start"],
        page_end=newest["page_end"],
        changes=len(olds),
        pages=pages,
        intact=intact,
        grace=grace,
        pace_chunks=pace.chunks,
        pace_pages=pace.pages,
        pace_seconds=pace.seconds,
        pace_sum_log=pace.sum_log,
        pace_sum_log_sq=pace.sum_log_sq,
        **deltas,
    )
