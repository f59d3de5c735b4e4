"""Rows of jobs and chunks as frozen objects, and the columns that they are read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import sqlalchemy as sa

from celery_progress_ext.chunks import UNFINISHED, ChunkProgress, ChunkStatus
from celery_progress_ext.jobs import ACTIVE, ChunkFailure, JobShape, JobStatus
from celery_progress_ext.pace import Pace
from celery_progress_ext.stages import StageName
from celery_progress_ext.storage.database import AnyRow
from celery_progress_ext.storage.expressions import now
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.schema import processing_jobs as jobs


class NamedChunk(Protocol):
    """What a failed chunk is named by."""

    @property
    def chunk_index(self) -> int: ...
    @property
    def page_start(self) -> int: ...
    @property
    def page_end(self) -> int: ...
    @property
    def error(self) -> str | None: ...
    @property
    def size(self) -> int | None: ...
    @property
    def grows(self) -> bool | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRow:
    """A job's row, with ``now``, the database's clock when it was read. Times are seconds since the epoch."""

    id: str
    matter_id: str | None
    document_id: str | None
    status: JobStatus
    stage_name: str
    stage: str
    progress_pct: int
    metadata: Mapping[str, Any]
    error: str | None
    unit: str
    on_chunk_failure: str
    total_chunks: int
    pending_chunks: int
    processing_chunks: int
    completed_chunks: int
    failed_chunks: int
    pages_total: int
    pages_done: int
    version: int
    run: int
    chord_intact: bool
    body_task_id: str
    body_attempt: int
    body_tries: int
    body_dispatches: int
    body_leased_until: float | None
    body_due_at: float | None
    merge_pages_done: int
    pace_chunks: int
    pace_pages: int
    pace_seconds: float
    pace_sum_log: float
    pace_sum_log_sq: float
    created_at: float
    started_at: float | None
    updated_at: float
    merge_started_at: float | None
    finished_at: float | None
    publishing_until: float | None
    body_sent_at: float | None
    followed_at: float | None
    reservations: int
    kind: str | None
    cost_total: float | None
    cost_done: float | None
    merge_share: float | None
    work_floor: float | None
    queues: Mapping[str, Any] | None
    title: str | None
    shape: str | None
    merge_message: str | None
    ranged: bool | None
    now: float

    @classmethod
    def of(cls, row: AnyRow) -> JobRow:
        """From a row with the columns of ``JOB_COLUMNS``; others are ignored."""
        values = row._mapping
        return cls(**{name: values[name] for name in _JOB_FIELDS}, status=JobStatus(values["status"]))

    @property
    def chunks(self) -> ChunkProgress:
        """How many chunks stand where."""
        return ChunkProgress(
            total=self.total_chunks,
            pending=self.pending_chunks,
            processing=self.processing_chunks,
            completed=self.completed_chunks,
            failed=self.failed_chunks,
        )

    @property
    def has_body(self) -> bool:
        """Whether a merge ends it; else it ends when its chunks are terminal."""
        return self.shape is None

    def failure(self, chunk: NamedChunk, error: str | None = None) -> ChunkFailure:
        """The failure of a chunk of this job, for people; ``error`` where it is not that of the chunk's row."""
        return ChunkFailure(
            chunk_index=chunk.chunk_index,
            page_start=chunk.page_start,
            page_end=chunk.page_end,
            error=error or chunk.error or "unknown error",
            unit=self.unit,
            # A chunk without a range is one unit, and its number that unit's, until its task reports how many it has.
            ranged=self.ranged is not False and not (chunk.grows and chunk.size),
            alone=self.shape == JobShape.TASK,
        )

    @property
    def pace(self) -> Pace:
        """What the finished chunks took."""
        return Pace(
            chunks=self.pace_chunks,
            pages=self.pace_pages,
            seconds=self.pace_seconds,
            sum_log=self.pace_sum_log,
            sum_log_sq=self.pace_sum_log_sq,
        )

    @property
    def merging(self) -> bool:
        """Whether the merge has begun; the counts are frozen then."""
        return self.stage_name == StageName.MERGE


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkRow:
    """A chunk's row, without what is large in it: its signature and its result. Times are seconds since the epoch."""

    id: str
    job_id: str
    chunk_index: int
    page_start: int
    page_end: int
    status: ChunkStatus
    attempt: int
    tries: int
    dispatches: int
    task_id: str
    leased_until: float | None
    started_at: float | None
    progressed_at: float | None
    finished_at: float | None
    pages_done: int
    attempt_pages_done: int
    error: str | None
    worker: str | None
    sent_at: float | None
    reservations: Sequence[Mapping[str, Any]] | None
    cost: float | None
    cost_done: float | None
    steps_done: int | None
    steps_total: int | None
    first_at: float | None
    first_steps: int | None
    size: int | None
    grows: bool | None

    @classmethod
    def of(cls, row: AnyRow) -> ChunkRow:
        """From a row with the columns of ``CHUNK_COLUMNS``; others are ignored."""
        values = row._mapping
        return cls(**{name: values[name] for name in _CHUNK_FIELDS}, status=ChunkStatus(values["status"]))

    @property
    def pages(self) -> int:
        """How many units the chunk has."""
        return self.page_end - self.page_start + 1 if self.size is None else self.size

    @property
    def expected_cost(self) -> float:
        """What the chunk is expected to cost: its pages, unless the job says otherwise."""
        return float(self.pages) if self.cost is None else self.cost

    @property
    def cost_counted(self) -> float:
        """How much of that is done, as far as the job has counted it."""
        if self.cost_done is None:
            return self.expected_cost * min(1.0, self.pages_done / max(1, self.pages))
        return self.cost_done


_JOB_FIELDS = [field.name for field in fields(JobRow) if field.name != "status"]
_CHUNK_FIELDS = [field.name for field in fields(ChunkRow) if field.name != "status"]

_NOT_READ = frozenset(
    {"signature", "result", "body_signature", "followers", "audited_version", "learned_run", "title_key"}
)

JOB_COLUMNS: Sequence[sa.ColumnElement[Any]] = [
    *(column for column in jobs.c if column.name not in _NOT_READ),
    now().label("now"),
]
CHUNK_COLUMNS: Sequence[sa.ColumnElement[Any]] = [column for column in chunks.c if column.name not in _NOT_READ]


def has_status(column: sa.Column[str], statuses: frozenset[Any]) -> sa.ColumnElement[bool]:
    """Whether a status is one of these, of a table of the pure core."""
    return column.in_([sa.literal_column(f"'{status.value}'") for status in sorted(statuses)])


#: The run is not over.
active = has_status(jobs.c.status, ACTIVE)
#: The job counts what its chunks do: its run is not over, and its merge has not begun.
counting = sa.and_(active, jobs.c.stage_name != sa.literal_column(f"'{StageName.MERGE.value}'"))
#: Every chunk is terminal.
settled = jobs.c.completed_chunks + jobs.c.failed_chunks == jobs.c.total_chunks
#: How many units a chunk has.
chunk_size = sa.func.coalesce(chunks.c.size, chunks.c.page_end - chunks.c.page_start + 1)
#: A merge ends the job; else it ends when its chunks are terminal.
has_body = jobs.c.shape.is_(None)
#: The merge waits for the chunk.
unfinished = has_status(chunks.c.status, UNFINISHED)


def is_status(column: sa.Column[str], status: JobStatus | ChunkStatus) -> sa.ColumnElement[bool]:
    """Whether a status is this one, as a literal, so that partial indexes and plans know it."""
    return column == sa.literal_column(f"'{status.value}'")
