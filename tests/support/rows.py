"""The rows of jobs as the recorder changes them, without Celery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext import JobStatus, ids
from celery_progress_ext.chunks import Chunk
from celery_progress_ext.config import Settings
from celery_progress_ext.jobs import JobShape
from celery_progress_ext.storage import Database, Snapshots, lookups, sending, shortfalls
from celery_progress_ext.storage import body_changes as body
from celery_progress_ext.storage import chunk_changes as chunks
from celery_progress_ext.storage import job_changes as jobs
from celery_progress_ext.storage.job_changes import NewChunk, NewJob
from celery_progress_ext.storage.migrate import migrate
from celery_progress_ext.storage.schema import job_events
from celery_progress_ext.story import JobTrackingService, OCRChunkService
from tests.support.sql import execute

LEASE = 30.0
_TIMES = {
    "processing_jobs": (
        "created_at",
        "started_at",
        "updated_at",
        "finished_at",
        "body_due_at",
        "body_leased_until",
        "body_sent_at",
        "publishing_until",
        "merge_started_at",
    ),
    "document_ocr_chunks": ("leased_until", "started_at", "progressed_at", "finished_at", "sent_at", "first_at"),
    "job_events": ("at", "eta_finish_at", "eta_earliest_at", "eta_latest_at"),
}


def _pass_time_of_promises(conn: Connection, seconds: float) -> None:
    """An estimate says within its JSON when it was made."""
    for row in conn.execute(
        sa.select(job_events.c.id, job_events.c.eta_model).where(job_events.c.eta_model.is_not(None))
    ):
        phase, at, *rest = row.eta_model
        moved = sa.update(job_events).where(job_events.c.id == row.id).values(eta_model=[phase, at - seconds, *rest])
        conn.execute(moved)


class Rows:
    """A migrated database and shorthands for what the recorder does with it.

    :param migrated: False leaves the tables as they are.
    """

    def __init__(self, url: str, *, migrated: bool = True) -> None:
        self.database = Database(url)
        if migrated:
            migrate(self.database)
        self.snapshots = Snapshots(self.database, Settings())
        self.jobs = JobTrackingService(self.database, self.snapshots)
        self.chunks = OCRChunkService(self.database, self.snapshots)

    def create(
        self,
        total: int = 3,
        *,
        policy: str = "partial",
        pages: int = 25,
        document_id: str = "d",
        signatures: Sequence[Mapping[str, Any]] = ({},),
        due: float = LEASE,
        sent: bool = True,
        kind: str | None = None,
        costs: Sequence[float] | None = None,
        shape: JobShape | None = None,
        grows: bool = False,
        owner: str | None = "m",
    ) -> str:
        """A job; its chunks have these signatures in turn, and the broker took them unless ``sent`` says otherwise."""
        job_id = ids.new_job_id()
        new = self.new_job(job_id, total, policy=policy, pages=pages, document_id=document_id, signatures=signatures)
        if costs is not None:
            new = replace(new, chunks=[replace(row, cost=cost) for row, cost in zip(new.chunks, costs, strict=True)])
        if grows:
            new = replace(new, chunks=[replace(row, cost=1.0, grows=True) for row in new.chunks])
        new = replace(new, kind=kind, shape=shape, matter_id=owner)
        assert self.database.write(lambda conn: jobs.create(conn, new, due=due)) is not None
        if sent:
            self._mark_sent(job_id, [(chunk.id, chunk.task_id) for chunk in new.chunks], due=due)
        return job_id

    @staticmethod
    def new_job(
        job_id: str,
        total: int,
        *,
        policy: str = "partial",
        pages: int = 25,
        document_id: str = "d",
        signatures: Sequence[Mapping[str, Any]] = ({},),
    ) -> NewJob:
        """A job before it is created."""
        return NewJob(
            id=job_id,
            matter_id="m",
            document_id=document_id,
            unit="pages",
            on_chunk_failure=policy,
            metadata={"filename": "a.pdf"},
            title="a.pdf",
            body_task_id=job_id,
            body_signature={},
            followers={},
            chunks=[
                NewChunk(
                    id=ids.chunk_id(job_id, index),
                    chunk=Chunk(index=index, page_start=index * pages + 1, page_end=(index + 1) * pages),
                    task_id=ids.chunk_task_id(job_id, index, 1),
                    signature=signatures[index % len(signatures)],
                )
                for index in range(total)
            ],
        )

    def _mark_sent(self, job_id: str, tasks: Sequence[tuple[str, str]], *, due: float = LEASE) -> None:
        self.database.write(lambda conn: sending.mark_sent(conn, job_id, tasks, due=due, lease=LEASE, last=True))

    def pass_time(self, seconds: float) -> None:
        """Everything that is recorded happened so much earlier, and what is due is due so much sooner."""
        for table, columns in _TIMES.items():
            moved = ", ".join(
                f"{column} = CASE WHEN {column} > 0 THEN {column} - :seconds ELSE {column} END" for column in columns
            )
            self.database.write(lambda conn, sql=f"UPDATE {table} SET {moved}": execute(conn, sql, seconds=seconds))
        self.database.write(lambda conn: _pass_time_of_promises(conn, seconds))

    def start(self, job_id: str, index: int, **options: Any) -> chunks.Change | None:
        chunk_id = ids.chunk_id(job_id, index)
        return self.database.write(
            lambda conn: chunks.start(conn, chunk_id, **{"lease": LEASE, "max_tries": 3, **options})
        )

    def complete(
        self, job_id: str, index: int, result: Any = None, seconds: float | None = None, **options: Any
    ) -> chunks.Change | None:
        completion = chunks.Completion(chunk_id=ids.chunk_id(job_id, index), result=result, seconds=seconds, **options)
        changes = self.complete_all([completion])
        return changes[0] if changes else None

    def reserve(self, job_id: str, index: int, *, attempt: int, pages: Mapping[int, str]) -> bool:
        """Pages that an attempt could not wholly read, with a sentence each."""
        reservations = [{"page": page, "message": message} for page, message in pages.items()]
        chunk_id = ids.chunk_id(job_id, index)
        return bool(
            self.database.write(
                lambda conn: shortfalls.reserve(conn, chunk_id, attempt=attempt, reservations=reservations)
            )
        )

    def complete_all(self, told: list[chunks.Completion]) -> list[chunks.Change]:
        """Completions in one transaction."""
        return self.database.write(lambda conn: chunks.complete_all(conn, told, grace=LEASE)) or []

    def fail(self, job_id: str, index: int, **options: Any) -> chunks.Change | None:
        chunk_id = ids.chunk_id(job_id, index)
        return self.database.write(lambda conn: chunks.fail(conn, chunk_id, **{"error": "boom", **options}))

    def progress(
        self, job_id: str, index: int, *, attempt: int, done: int, total: int | None = None
    ) -> chunks.Change | None:
        chunk_id = ids.chunk_id(job_id, index)
        return self.database.write(
            lambda conn: chunks.progress(conn, chunk_id, attempt=attempt, done=done, total=total, lease=LEASE)
        )

    def lose(self, job_id: str, index: int, *, dispatch: int = 1, **options: Any) -> chunks.Change | None:
        """A chunk is sent again, and the broker takes it."""
        chunk_id, task_id = ids.chunk_id(job_id, index), ids.chunk_task_id(job_id, index, dispatch + 1)
        change = self.database.write(
            lambda conn: chunks.release(
                conn, chunk_id, dispatch=dispatch, task_id=task_id, due=LEASE, reason="lost", resend=True, **options
            )
        )
        if change is not None:
            self._mark_sent(job_id, [(chunk_id, task_id)])
        return change

    def again(self, job_id: str, index: int, *, dispatch: int = 1) -> chunks.Change | None:
        """Celery's own retry of a chunk."""
        return self.database.write(
            lambda conn: chunks.release(
                conn,
                ids.chunk_id(job_id, index),
                dispatch=dispatch,
                task_id=ids.chunk_task_id(job_id, index, dispatch),
                due=LEASE,
                reason="again",
                resend=False,
            )
        )

    def tell(self, job_id: str, status: JobStatus, **options: Any) -> Any:
        """A status told by hand."""
        return self.jobs.update(job_id, status=status, **options)

    def send_body(self, job_id: str) -> Any:
        return self.database.write(lambda conn: body.take_dispatch(conn, job_id, grace=-1))

    def release_body(self, job_id: str, attempt: int) -> Any:
        return self.database.write(lambda conn: body.release(conn, job_id, attempt=attempt, due=LEASE))

    def claim(self, job_id: str, **options: Any) -> Any:
        return self.database.write(
            lambda conn: body.claim(conn, job_id, **{"task_id": job_id, "lease": LEASE, "max_tries": 3, **options})
        )

    def merge_progress(self, job_id: str, attempt: int, *, done: int, total: int | None = None) -> Any:
        return self.database.write(
            lambda conn: body.progress(conn, job_id, attempt=attempt, done=done, total=total, lease=LEASE)
        )

    def finish(self, job_id: str, attempt: int) -> Any:
        return self.database.write(lambda conn: body.finish(conn, job_id, attempt=attempt))

    def settle(self, job_id: str) -> Any:
        """The reconciler ends a job without a body, whose last chunk nobody counted as that."""

        def write(conn: Connection) -> Any:
            job = lookups.job(self.database, job_id)
            return None if job is None else body.end_without_body(conn, job)

        return self.database.write(write)

    def end(self, job_id: str, status: JobStatus = JobStatus.CANCELLED) -> Any:
        return self.database.write(lambda conn: jobs.end(conn, job_id, status, error=None))

    def reopen(self, job_id: str) -> Any:
        """A retry, whose messages the broker takes."""
        job = self.database.write(lambda conn: jobs.reopen(conn, job_id, due=LEASE))
        unsent = sending.unsent_chunks(self.database, job_id, limit=10_000)
        self._mark_sent(job_id, [(each.chunk.id, each.chunk.task_id) for each in unsent])
        return job


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    """A migrated database, on SQLite and on PostgreSQL."""
    made = Rows(database_url)
    yield made
    made.database.dispose()
