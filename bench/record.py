"""Turns jobs that ended into cases of ``bench.eta``: one JSON object a line, from the rows and the history.

``python -m bench.record DATABASE_URL [--limit N] > jobs.jsonl``, for instance with the database of an ``up``.

Of each chunk that was completed its last attempt is known: its start, first report and end; pages in between are taken
to have ended evenly. What the product promised is kept beside it, as ``[seconds, finish, earliest, latest]``, all in
seconds since the job was created.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.kinds import slots_of
from celery_progress_ext.storage.rows import CHUNK_COLUMNS, JOB_COLUMNS, ChunkRow, JobRow
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.schema import job_events as events
from celery_progress_ext.storage.schema import processing_jobs as jobs

_ENDED = sa.select(*JOB_COLUMNS).where(jobs.c.finished_at.is_not(None), jobs.c.run == 1).order_by(jobs.c.finished_at)


def recordings(database: Database, *, limit: int) -> Iterator[dict[str, Any]]:
    """The last jobs that ended well in their first run, oldest first."""
    ended = [job for row in database.rows(_ENDED) if (job := JobRow.of(row)).status.ended_well]
    for job in ended[-limit:]:
        query = sa.select(*CHUNK_COLUMNS).where(chunks.c.job_id == job.id).order_by(chunks.c.chunk_index)
        rows = [ChunkRow.of(row) for row in database.rows(query)]
        done = [row for row in rows if row.status is ChunkStatus.COMPLETED and row.started_at is not None]
        if not done or job.merge_started_at is None or job.finished_at is None:
            continue
        yield {
            "job": job.id,
            "file": str(job.metadata.get("filename", job.document_id)),
            "kind": "recorded",
            "mode": "",
            "workers": slots_of(done),
            "status": job.status.value,
            "merge_start": round(job.merge_started_at - job.created_at, 3),
            "end": round(job.finished_at - job.created_at, 3),
            "chunks": [_chunk(row, job.created_at) for row in done],
            "costs": None if any(row.cost is None for row in done) else [row.cost for row in done],
            "eta": _promises(database, job),
        }


def _chunk(row: ChunkRow, created_at: float) -> dict[str, Any]:
    assert row.started_at is not None
    assert row.finished_at is not None
    start, end = row.started_at - created_at, row.finished_at - created_at
    first = end if row.first_at is None else row.first_at - created_at
    known, left = row.first_steps or 1, row.pages - (row.first_steps or 1)
    pages = [first] * min(known, row.pages) + [first + (end - first) * (n + 1) / left for n in range(max(0, left))]
    attempt = {"start": round(start, 3), "pages": [round(page, 3) for page in pages], "end": round(end, 3)}
    return {"size": row.pages, "attempts": [{**attempt, "status": "completed"}]}


def _promises(database: Database, job: JobRow) -> list[list[float]]:
    query = (
        sa.select(events.c.eta_model, events.c.eta_finish_at, events.c.eta_earliest_at, events.c.eta_latest_at)
        .where(events.c.job_id == job.id, events.c.eta_model.is_not(None))
        .order_by(events.c.version)
    )
    return [
        [round(moment - job.created_at, 3) for moment in (row[0][1], row[1], row[2], row[3])]
        for row in database.rows(query)
    ]


def main() -> None:
    """Print a line for each job."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("database", help="such as sqlite:////path/to/progress.db")
    parser.add_argument("--limit", type=int, default=200, help="at most so many, the last ones")
    given = parser.parse_args()
    database = Database(given.database)
    try:
        for recording in recordings(database, limit=given.limit):
            print(json.dumps(recording, ensure_ascii=False))
    finally:
        database.dispose()


if __name__ == "__main__":
    main()
