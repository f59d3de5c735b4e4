"""The one statement that moves a job's counters when chunks changed: O(1), whatever the number of chunks."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.pace import Pace
from celery_progress_ext.stages import Stage, StageName, stage
from celery_progress_ext.storage.expressions import json_object, now, parameter, with_chunk_processing
from celery_progress_ext.storage.rows import JOB_COLUMNS, ChunkRow, JobRow, counting
from celery_progress_ext.storage.schema import processing_jobs as jobs

#: Added to the job's pace where no chunk finished, or its duration is not known.
_NO_PACE = Pace()


def stage_message(
    row: Stage, *, completed: sa.ColumnElement[int], total: sa.ColumnElement[int]
) -> sa.ColumnElement[str]:
    """A stage's message as an SQL expression, from the same format string as everywhere."""
    values = {"completed": completed, "total": total}
    parts: list[sa.ColumnElement[str]] = []
    rest = row.message
    while rest:
        text, brace, rest = rest.partition("{")
        parts.append(sa.literal_column("'" + text.replace("'", "''").replace("%", "%%") + "'", sa.Text))
        if brace:
            name, _, rest = rest.partition("}")
            parts.append(sa.cast(values[name], sa.Text))
    message = parts[0]
    for part in parts[1:]:
        message = message.concat(part)
    return message


#: The counter of each status.
COUNTERS = {
    ChunkStatus.PENDING: jobs.c.pending_chunks,
    ChunkStatus.PROCESSING: jobs.c.processing_chunks,
    ChunkStatus.COMPLETED: jobs.c.completed_chunks,
    ChunkStatus.FAILED: jobs.c.failed_chunks,
}


_GROWS_BY = {status: parameter(status.value, sa.Integer) for status in ChunkStatus}
_COMPLETED = jobs.c.completed_chunks + _GROWS_BY[ChunkStatus.COMPLETED]
_FAILED = jobs.c.failed_chunks + _GROWS_BY[ChunkStatus.FAILED]
_PACE = {
    jobs.c.pace_chunks: parameter("pace_chunks", sa.Integer),
    jobs.c.pace_pages: parameter("pace_pages", sa.BigInteger),
    jobs.c.pace_seconds: parameter("pace_seconds", sa.Double),
    jobs.c.pace_sum_log: parameter("pace_sum_log", sa.Double),
    jobs.c.pace_sum_log_sq: parameter("pace_sum_log_sq", sa.Double),
}
_CHUNK_PROCESSING = json_object(
    "total_chunks",
    jobs.c.total_chunks,
    "completed_chunks",
    _COMPLETED,
    "failed_chunks",
    _FAILED,
    "current_chunk_index",
    parameter("chunk_index", sa.Integer),
    "current_page_range",
    json_object("start", parameter("page_start", sa.BigInteger), "end", parameter("page_end", sa.BigInteger)),
)
_MOVE = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("of_job"), counting)
    .values(
        {
            jobs.c.status: JobStatus.PROCESSING.value,
            jobs.c.stage_name: StageName.CHUNK_PROCESSING.value,
            jobs.c.stage: stage_message(
                stage(StageName.CHUNK_PROCESSING), completed=_COMPLETED, total=jobs.c.total_chunks
            ),
            **{column: column + _GROWS_BY[status] for status, column in COUNTERS.items()},
            jobs.c.pages_done: jobs.c.pages_done + parameter("pages", sa.BigInteger),
            jobs.c.pages_total: jobs.c.pages_total + parameter("grown", sa.BigInteger),
            jobs.c.cost_done: jobs.c.cost_done + parameter("cost", sa.Double),
            jobs.c.reservations: jobs.c.reservations + parameter("reservations", sa.Integer),
            # Integers, so that 29 of 100 are not 28 %.
            jobs.c.progress_pct: _COMPLETED * 100 // jobs.c.total_chunks,
            jobs.c.metadata: with_chunk_processing(jobs.c.metadata, _CHUNK_PROCESSING),
            jobs.c.chord_intact: sa.and_(jobs.c.chord_intact, sa.bindparam("new_chord_intact", type_=sa.Boolean)),
            jobs.c.body_due_at: sa.case(
                (jobs.c.total_chunks == _COMPLETED + _FAILED, now() + parameter("grace", sa.Double)), else_=None
            ),
            **{column: column + parameter for column, parameter in _PACE.items()},
            jobs.c.started_at: sa.func.coalesce(jobs.c.started_at, now()),
            jobs.c.updated_at: now(),
            jobs.c.version: jobs.c.version + parameter("changes", sa.Integer),
        }
    )
    .returning(*JOB_COLUMNS)
)


def move(
    conn: Connection,
    chunk: ChunkRow,
    *,
    old: ChunkStatus,
    new: ChunkStatus,
    pages: int = 0,
    grown: int = 0,
    cost: float = 0.0,
    chord_intact: bool = True,
) -> JobRow | None:
    """Count one chunk's change from ``old`` to ``new`` and ``pages`` more done; as :func:`move_all`."""
    return move_all(conn, chunk, olds=(old,), new=new, pages=pages, grown=grown, cost=cost, chord_intact=chord_intact)


def move_all(
    conn: Connection,
    newest: ChunkRow,
    *,
    olds: Collection[ChunkStatus],
    new: ChunkStatus,
    pages: int = 0,
    grown: int = 0,
    cost: float = 0.0,
    chord_intact: bool = True,
    grace: float = 0.0,
    pace: Pace = _NO_PACE,
    reservations: int = 0,
) -> JobRow | None:
    """Count the change of a job's chunks from ``olds``, a status each, to ``new``, and ``pages`` more done, with their
    cost.

    Each change is a version of its own, as its event says. ``newest`` is shown as the current chunk.

    :param grown: how many units the job has more than was known.

    Returns the job's row, or None where the run is over or its merge has begun: the counts are then frozen, because
    they say what is in the merged file, and the caller rolls back.
    """
    grows_by = dict.fromkeys(ChunkStatus, 0)
    for old in olds:
        grows_by[old] -= 1
    grows_by[new] += len(olds)
    row = conn.execute(
        _MOVE,
        {
            "of_job": newest.job_id,
            "new_chunk_index": newest.chunk_index,
            "new_page_start": newest.page_start,
            "new_page_end": newest.page_end,
            "new_changes": len(olds),
            "new_pages": pages,
            "new_grown": grown,
            "new_cost": cost,
            "new_chord_intact": chord_intact,
            "new_grace": grace,
            "new_reservations": reservations,
            "new_pace_chunks": pace.chunks,
            "new_pace_pages": pace.pages,
            "new_pace_seconds": pace.seconds,
            "new_pace_sum_log": pace.sum_log,
            "new_pace_sum_log_sq": pace.sum_log_sq,
            **{f"new_{status.value}": count for status, count in grows_by.items()},
        },
    ).first()
    return None if row is None else JobRow.of(row)
