"""Guarded changes, on SQLite and PostgreSQL: each takes effect once, whatever is repeated, late or out of date."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from celery_progress_ext import ChunkProgressTracker, JobStatus, JobTrackingService, OCRChunkService, context, ids
from celery_progress_ext.chunks import Chunk
from celery_progress_ext.config import Settings
from celery_progress_ext.exceptions import ChunkNotFound, DatabaseError, DatabaseNotMigrated, JobNotFound
from celery_progress_ext.jobs import JobShape
from celery_progress_ext.pace import Pace
from celery_progress_ext.storage import Database, Snapshots, retention
from celery_progress_ext.storage import body_changes as body
from celery_progress_ext.storage import job_changes as jobs
from celery_progress_ext.storage.audit import audit
from celery_progress_ext.storage.chunk_changes import Completion
from celery_progress_ext.storage.job_changes import NewChunk, NewJob
from tests.support import sql
from tests.support.rows import LEASE, Rows
from tests.support.sql import execute


def test_a_job_is_whole_before_anything_is_published(rows: Rows) -> None:
    """Its chunks are there, pending, and its first version is 1."""
    snapshot = rows.jobs.snapshot(rows.create(17))
    assert (snapshot.version, snapshot.status, snapshot.chunks.pending) == (1, JobStatus.PENDING, 17)
    assert snapshot.pages_total == 425
    assert snapshot.metadata["filename"] == "a.pdf"


def test_creating_a_job_again_changes_nothing(rows: Rows) -> None:
    """A chain's step that a redelivery runs twice makes one job."""
    job_id = rows.create(2)
    again = NewJob(
        id=job_id, matter_id="x", document_id="x", unit="pages", on_chunk_failure="fail", metadata={},
        body_task_id=job_id, body_signature={}, followers={}, chunks=[],
    )  # fmt: skip
    assert rows.database.write(lambda conn: jobs.create(conn, again, due=LEASE)) is None
    assert rows.jobs.snapshot(job_id).matter_id == "m"


def test_a_job_of_many_chunks_is_created_whole_or_not_at_all(rows: Rows) -> None:
    """Rows are inserted in batches, in one transaction."""
    assert rows.jobs.snapshot(rows.create(1_201)).chunks.pending == 1_201
    broken = [
        NewChunk(id=f"x{index % 1_200}", chunk=Chunk(index=index, page_start=1, page_end=1), task_id="t", signature={})
        for index in range(1_201)
    ]
    job = NewJob(
        id="x", matter_id="m", document_id="x", unit="pages", on_chunk_failure="fail", metadata={},
        body_task_id="x", body_signature={}, followers={}, chunks=broken,
    )  # fmt: skip
    with pytest.raises(DatabaseError, match=r"(?i)unique"):
        rows.database.write(lambda conn: jobs.create(conn, job, due=LEASE))
    assert sql.rows(rows.database, "SELECT id FROM document_ocr_chunks WHERE job_id = 'x'") == []
    assert sql.row(rows.database, "SELECT id FROM processing_jobs WHERE id = 'x'") is None


def test_a_completion_counts_once(rows: Rows) -> None:
    """However often task_success is told."""
    job_id = rows.create(17)
    assert rows.complete(job_id, 4) is not None
    assert rows.complete(job_id, 4) is None
    snapshot = rows.jobs.snapshot(job_id)
    assert (snapshot.chunks.completed, snapshot.progress_pct, snapshot.stage) == (1, 5, "Processing chunk 1/17")
    assert snapshot.version == 2


def test_the_metadata_names_the_chunk_that_changed(rows: Rows) -> None:
    """`metadata["chunk_processing"]` as the story has it, beside what the caller gave."""
    job_id = rows.create(17)
    rows.complete(job_id, 4)
    metadata = rows.jobs.snapshot(job_id).metadata
    assert metadata["chunk_processing"] == {
        "total_chunks": 17,
        "completed_chunks": 1,
        "failed_chunks": 0,
        "current_chunk_index": 4,
        "current_page_range": {"start": 101, "end": 125},
    }
    assert metadata["filename"] == "a.pdf"


def test_a_late_success_wins_over_a_failure(rows: Rows) -> None:
    """A hard limit can report a failure although the result was stored (F10)."""
    job_id = rows.create(2)
    rows.fail(job_id, 0)
    rows.complete(job_id, 0)
    counts = rows.jobs.snapshot(job_id).chunks
    assert (counts.completed, counts.failed) == (1, 0)


def test_a_failure_never_takes_a_completion_back(rows: Rows) -> None:
    """Completed is final."""
    job_id = rows.create(2)
    rows.complete(job_id, 0)
    assert rows.fail(job_id, 0) is None
    assert rows.jobs.snapshot(job_id).chunks.completed == 1


def test_an_attempt_that_was_superseded_changes_nothing(rows: Rows) -> None:
    """The attempt is a fencing token: beats, pages and failures of an old one are out of date."""
    job_id = rows.create(2)
    first = rows.start(job_id, 0, lease=-1)
    second = rows.start(job_id, 0)
    assert first is not None and second is not None
    assert first.chunk is not None
    assert second.chunk is not None
    old, new = first.chunk.attempt, second.chunk.attempt
    assert (old, new) == (1, 2)
    assert rows.progress(job_id, 0, attempt=old, done=5) is None
    assert rows.fail(job_id, 0, attempt=old) is None
    assert rows.progress(job_id, 0, attempt=new, done=5) is not None


def test_a_chunk_in_living_hands_is_not_started_again(rows: Rows) -> None:
    """A redelivery while the first worker still beats (F19)."""
    job_id = rows.create(2)
    assert rows.start(job_id, 0) is not None
    assert rows.start(job_id, 0) is None
    assert rows.start(job_id, 0, dead_attempt=1) is not None


def test_a_chunk_is_started_at_most_so_often(rows: Rows) -> None:
    """A page that kills every worker must not kill them for ever."""
    job_id = rows.create(2)
    for _ in range(3):
        assert rows.start(job_id, 0, lease=-1) is not None
    assert rows.start(job_id, 0, lease=-1) is None


def test_pages_once_shown_are_not_taken_back(rows: Rows) -> None:
    """A restart of the chunk begins at page 0, the bar does not."""
    job_id = rows.create(2)
    rows.start(job_id, 0, lease=-1)
    rows.progress(job_id, 0, attempt=1, done=10)
    rows.lose(job_id, 0)
    rows.start(job_id, 0)
    rows.progress(job_id, 0, attempt=2, done=3)
    assert rows.jobs.snapshot(job_id).pages_done == 10
    rows.progress(job_id, 0, attempt=2, done=12)
    assert rows.jobs.snapshot(job_id).pages_done == 12


def test_a_chunk_that_gave_a_sign_of_life_meanwhile_is_not_lost(rows: Rows) -> None:
    """Between the reconciler's look and its change a late heartbeat renewed the lease, or a worker took the message."""
    job_id = rows.create(2)
    rows.start(job_id, 0)
    assert rows.lose(job_id, 0, only_if_lease_expired=True) is None
    assert rows.fail(job_id, 0, only_if_lease_expired=True) is None
    rows.start(job_id, 1, lease=-1.0)
    assert rows.lose(job_id, 1, only_if_lease_expired=True) is not None


def test_a_message_that_was_sent_again_is_not_lost_again(rows: Rows) -> None:
    """Two reconcilers see the same overdue chunk; one of them sends it."""
    job_id = rows.create(2)
    assert rows.lose(job_id, 0) is not None
    assert rows.lose(job_id, 0) is None


def test_the_body_waits_for_every_chunk(rows: Rows) -> None:
    """Celery may count a part twice (F19, F25) and publish the body early."""
    job_id = rows.create(2)
    rows.complete(job_id, 0)
    assert rows.claim(job_id) is None
    rows.complete(job_id, 1)
    assert rows.claim(job_id) is not None


def test_the_body_is_claimed_once(rows: Rows) -> None:
    """A second delivery ends without effect (F6)."""
    job_id = rows.create(1)
    rows.complete(job_id, 0)
    claimed = rows.claim(job_id)
    assert rows.claim(job_id) is None
    assert rows.jobs.snapshot(job_id).stage == "Merging OCR results"
    assert rows.finish(job_id, claimed.body_attempt).status == "COMPLETED"
    assert rows.claim(job_id) is None
    assert rows.finish(job_id, claimed.body_attempt) is None


def test_a_body_whose_worker_died_is_claimed_again(rows: Rows) -> None:
    """And what the dead one says afterwards does not count."""
    job_id = rows.create(1)
    rows.complete(job_id, 0)
    dead = rows.claim(job_id, lease=-1).body_attempt
    alive = rows.claim(job_id).body_attempt
    assert rows.finish(job_id, dead) is None
    assert rows.finish(job_id, alive) is not None


def test_the_counts_are_frozen_once_the_merge_began(rows: Rows) -> None:
    """They say what is in the merged file; a success that comes after it is not (F19)."""
    job_id = rows.create(2)
    rows.complete(job_id, 0)
    rows.fail(job_id, 1)
    rows.claim(job_id)
    assert rows.complete(job_id, 1) is None
    assert rows.jobs.snapshot(job_id).chunks.failed == 1
    assert audit(rows.database) == []


def test_a_job_with_failed_chunks_ends_partial_and_names_them(rows: Rows) -> None:
    """P5: the sentence a person reads."""
    job_id = rows.create(5)
    for index in range(4):
        rows.complete(job_id, index)
    rows.fail(job_id, 4, error="Document AI timeout")
    rows.finish(job_id, rows.claim(job_id).body_attempt)
    snapshot = rows.jobs.snapshot(job_id)
    assert snapshot.status is JobStatus.PARTIAL
    assert [failure.message for failure in snapshot.failures] == ["Chunk 5 (pages 101-125) failed: Document AI timeout"]


def test_a_cancelled_job_takes_no_more_reports(rows: Rows) -> None:
    """What was finished is kept, what was running is not."""
    job_id = rows.create(3)
    rows.complete(job_id, 0)
    rows.start(job_id, 1)
    assert rows.end(job_id) is not None
    assert rows.complete(job_id, 1) is None
    assert rows.end(job_id) is None
    counts = rows.jobs.snapshot(job_id).chunks
    assert (counts.completed, counts.pending, counts.processing) == (1, 2, 0)
    assert audit(rows.database) == []


def test_an_illegal_cancel_leaves_the_chunks_alone(rows: Rows) -> None:
    """The transaction rolls back whole."""
    job_id = rows.create(1)
    rows.complete(job_id, 0)
    rows.finish(job_id, rows.claim(job_id).body_attempt)
    before = rows.jobs.snapshot(job_id)
    assert rows.end(job_id) is None
    assert rows.jobs.snapshot(job_id).version == before.version


def test_a_retry_runs_only_what_failed(rows: Rows) -> None:
    """P4; and the second of two people who press retry changes nothing."""
    job_id = rows.create(3)
    rows.complete(job_id, 0)
    rows.complete(job_id, 1)
    rows.fail(job_id, 2)
    rows.finish(job_id, rows.claim(job_id).body_attempt)
    assert rows.reopen(job_id) is not None
    assert rows.reopen(job_id) is None
    statuses = [(chunk["status"], chunk["dispatches"]) for chunk in rows.jobs.chunks(job_id)]
    assert statuses == [("completed", 1), ("completed", 1), ("pending", 2)]
    snapshot = rows.jobs.snapshot(job_id)
    assert (snapshot.status, snapshot.progress_pct, snapshot.error) == (JobStatus.PROCESSING, 66, None)


def test_a_merge_of_the_run_before_can_not_end_the_retry(rows: Rows) -> None:
    """Its worker lives on after a cancel, and says that it is done when chunks run again."""
    job_id = rows.create(2)
    rows.complete(job_id, 0)
    rows.fail(job_id, 1)
    before = rows.claim(job_id).body_attempt
    rows.end(job_id)
    rows.reopen(job_id)
    assert rows.finish(job_id, before) is None
    rows.complete(job_id, 1)
    assert rows.finish(job_id, before) is None
    assert rows.release_body(job_id, before) is None
    assert rows.finish(job_id, rows.claim(job_id).body_attempt).status == "COMPLETED"


def test_the_history_tells_the_story_in_order(rows: Rows) -> None:
    """Each event with the version that it made; `after` continues from one."""
    job_id = rows.create(1)
    rows.start(job_id, 0)
    rows.complete(job_id, 0)
    rows.finish(job_id, rows.claim(job_id).body_attempt)
    events = rows.jobs.history(job_id)
    assert [event["type"] for event in events] == [
        "job_created", "chunk_started", "chunk_completed", "merge_started", "job_completed",
    ]  # fmt: skip
    assert [event["version"] for event in events] == [1, 2, 3, 4, 5]
    assert [event["version"] for event in rows.jobs.history(job_id, after=3)] == [4, 5]


def test_concurrent_completions_lose_nothing(rows: Rows) -> None:
    """Eight writers at once, each chunk reported twice."""
    job_id = rows.create(60)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: rows.complete(job_id, index, index), [*range(60), *range(60)]))
    snapshot = rows.jobs.snapshot(job_id)
    assert (snapshot.chunks.completed, snapshot.version, snapshot.progress_pct) == (60, 61, 100)
    assert snapshot.pages_done == 60 * 25


def test_completions_together_are_what_they_are_one_by_one(rows: Rows) -> None:
    """The same counts, pace, rows and events, but for times; a chunk told twice, or done before, is counted once."""
    jobs = [rows.create(6), rows.create(6)]
    for job_id in jobs:
        rows.start(job_id, 1)
        rows.progress(job_id, 1, attempt=1, done=7)
        rows.fail(job_id, 2)
        rows.complete(job_id, 3)
    told = [(index, 2.5 * index if index else None) for index in (4, 1, 0, 4, 3, 2)]
    for index, seconds in told:
        rows.complete(jobs[0], index, result={"chunk": index}, seconds=seconds)
    changes = rows.complete_all(
        [
            Completion(chunk_id=ids.chunk_id(jobs[1], index), result={"chunk": index}, seconds=seconds)
            for index, seconds in told
        ],
    )
    assert [change.chunk.chunk_index for change in changes if change.chunk] == [4, 1, 0, 2]
    assert all(change.job.completed_chunks == 5 for change in changes)
    singly, together = ([_without_times(rows, job_id, table) for table in _TABLES] for job_id in jobs)
    assert together == singly
    assert audit(rows.database) == []


_TABLES = {
    "processing_jobs": "id",
    "document_ocr_chunks": "job_id",
    "job_events": "job_id",
}


def _without_times(rows: Rows, job_id: str, table: str) -> list[Any]:
    """A job's rows of a table as they are told, without when and of which job."""
    found = sql.rows(rows.database, f"SELECT * FROM {table} WHERE {_TABLES[table]} = :id ORDER BY 1", id=job_id)
    return [
        {
            name: round(value, 6) if name.startswith("pace_") else str(value).replace(job_id, "JOB")
            for name, value in row.items()
            if not (name.endswith(("_at", "_until")) or name in ("id", "at") or value is None)
        }
        for row in found
    ]


def test_completions_together_find_their_chunks_by_key(rows: Rows) -> None:
    """In a job of 10,000 whose table nobody has analysed: PostgreSQL would rather read all of it for a join."""
    job_id = rows.create(10_000)
    explain = "EXPLAIN QUERY PLAN " if rows.database.dialect == "sqlite" else "EXPLAIN "
    told = [Completion(chunk_id=ids.chunk_id(job_id, index), result=1, seconds=1.0) for index in range(50)]
    statements: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "document_ocr_chunks" in statement and not statement.startswith("EXPLAIN"):
            statements.append((statement, parameters))

    sa.event.listen(rows.database.engine, "before_cursor_execute", note)
    assert len(rows.complete_all(told)) == 50
    assert len(statements) == 2
    for statement, parameters in statements:
        found = rows.database.write(
            lambda conn, text=explain + statement, values=parameters: (
                conn.exec_driver_sql(text, values).mappings().all()
            )
        )
        plan = [str([*step.values()][-1]) for step in found or []]
        assert any("document_ocr_chunks" in step and ("SEARCH" in step or "Index" in step) for step in plan), "\n".join(
            plan
        )
        assert not any("document_ocr_chunks" in step and ("SCAN" in step or "Seq" in step) for step in plan), "\n".join(
            plan
        )


def test_no_completion_together_counts_once_the_run_is_over(rows: Rows) -> None:
    """As a single one: the counts say what is in the merged file."""
    job_id = rows.create(3)
    rows.end(job_id)
    version = rows.jobs.snapshot(job_id).version
    assert rows.complete_all([Completion(chunk_id=ids.chunk_id(job_id, index)) for index in range(3)]) == []
    snapshot = rows.jobs.snapshot(job_id)
    assert (snapshot.version, snapshot.chunks.completed) == (version, 0)
    assert {chunk["status"] for chunk in rows.jobs.chunks(job_id)} == {"pending"}


def test_together_or_alone_writers_at_once_lose_nothing(rows: Rows) -> None:
    """Eight of them, each chunk reported three times, in groups that overlap."""
    job_id = rows.create(60)
    groups = [[(first + step) % 60 for step in range(size)] for first in range(0, 60, 5) for size in (1, 4, 10)]
    random.Random(11).shuffle(groups)
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda group: rows.complete_all([Completion(chunk_id=ids.chunk_id(job_id, index)) for index in group]),
                groups,
            )
        )
    snapshot = rows.jobs.snapshot(job_id)
    assert (snapshot.chunks.completed, snapshot.version) == (60, 61)
    assert audit(rows.database) == []


def test_every_kind_of_change_at_once_leaves_true_counts(rows: Rows) -> None:
    """Starts, pages, failures, losses and completions of the same few chunks, from eight writers: none raises."""
    job_id = rows.create(6)
    kinds: tuple[Callable[[int], Any], ...] = (
        lambda index: rows.start(job_id, index, max_tries=1000),
        lambda index: rows.progress(job_id, index, attempt=1, done=index),
        lambda index: rows.fail(job_id, index),
        lambda index: rows.lose(job_id, index),
        lambda index: rows.complete(job_id, index, index),
    )
    changes = [(kind, index) for index in range(6) for kind in kinds] * 8
    random.Random(7).shuffle(changes)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda change: change[0](change[1]), changes))
    assert audit(rows.database) == []
    assert rows.jobs.snapshot(job_id).chunks.completed == 6


@pytest.mark.parametrize("seconds", [None, 0.0, 1e-12, 0.37, 25.0, 1e13])
def test_the_pace_is_that_of_the_estimate(rows: Rows, seconds: float | None) -> None:
    """The columns are sums of what each chunk adds."""
    job_id = rows.create(2, pages=7)
    change = rows.complete(job_id, 1, 1, seconds=seconds)
    assert change is not None
    pace = Pace() if seconds is None else Pace.of(7, seconds)
    for name, value in asdict(pace).items():
        assert getattr(change.job, "pace_" + name) == pytest.approx(value, rel=1e-9), name


def test_a_cancel_and_completions_at_once_leave_true_counts(rows: Rows) -> None:
    """Whoever comes first: the counters equal the rows."""
    job_id = rows.create(40)
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(rows.complete, job_id, index) for index in range(40)]
        pool.submit(rows.end, job_id).result()
        for future in done:
            future.result()
    assert audit(rows.database) == []


def test_retention_forgets_a_job_with_its_chunks_and_events(rows: Rows) -> None:
    """Only jobs that ended long enough ago."""
    old, new = rows.create(2), rows.create(2)
    rows.end(old)
    rows.end(new)
    with rows.database.engine.begin() as conn:
        conn.exec_driver_sql(f"UPDATE processing_jobs SET finished_at = 1 WHERE id = '{old}'")
    [gone] = retention.expire(rows.database, days=30)
    assert (gone.job_id, gone.matter_id, gone.document_id) == (old, "m", "d")
    with pytest.raises(JobNotFound):
        rows.jobs.snapshot(old)
    assert rows.jobs.history(old) == []
    assert rows.jobs.snapshot(new).status is JobStatus.CANCELLED


def test_a_database_that_is_not_migrated_says_what_to_do(database_url: str) -> None:
    """Not `no such table`."""
    database = Database(database_url)
    with pytest.raises(DatabaseNotMigrated, match="progress migrate"):
        Snapshots(database, Settings()).get("job_x")
    database.dispose()


async def _tell(rows: Rows, job_id: str) -> None:
    tracker = ChunkProgressTracker(job_tracker=rows.jobs, chunk_service=rows.chunks)
    await tracker.update_chunk_progress(job_id=job_id, document_id="d", matter_id="m")


@pytest.mark.asyncio
async def test_the_storys_tracker_works_on_the_real_services(rows: Rows) -> None:
    """Counts of the document's job become its stage and percent."""
    job_id = rows.create(17)
    for index in range(5):
        rows.complete(job_id, index)
    await _tell(rows, job_id)
    snapshot = rows.jobs.snapshot(job_id)
    assert (snapshot.stage, snapshot.progress_pct) == ("Processing chunk 5/17", 29)


@pytest.mark.asyncio
async def test_services_made_bare_find_the_process_s_database(rows: Rows) -> None:
    """`JobTrackingService()`, as the story makes it, beside a `CeleryProgress` that was set up elsewhere."""
    elsewhere = context.ProcessContext(dict)
    elsewhere.database, elsewhere.snapshots = rows.database, rows.snapshots
    context.use(elsewhere)
    job_id = rows.create(17)
    rows.complete(job_id, 0)
    assert (await OCRChunkService().get_chunk_progress("d")).completed == 1
    assert JobTrackingService().snapshot(job_id).progress_pct == 5


@pytest.mark.asyncio
async def test_what_is_set_by_hand_never_goes_backwards(rows: Rows) -> None:
    """Neither the percent nor the stage (P1)."""
    job_id = rows.create(1)
    rows.complete(job_id, 0)
    rows.claim(job_id)
    await rows.jobs.update_job_status(job_id=job_id, status=JobStatus.PROCESSING, progress_pct=10)
    await _tell(rows, job_id)
    snapshot = rows.jobs.snapshot(job_id)
    assert (snapshot.stage, snapshot.progress_pct) == ("Merging OCR results", 100)


@pytest.mark.asyncio
async def test_metadata_set_by_hand_is_merged(rows: Rows) -> None:
    """What was there stays."""
    job_id = rows.create(1)
    await rows.jobs.update_job_status(job_id=job_id, status=JobStatus.PROCESSING, metadata={"engine": "x"})
    metadata = rows.jobs.snapshot(job_id).metadata
    assert (metadata["engine"], metadata["filename"]) == ("x", "a.pdf")


@pytest.mark.asyncio
async def test_an_unknown_job_is_a_log_line(rows: Rows) -> None:
    """A status of a job that retention removed must not fail the task that tells it."""
    assert await rows.jobs.update_job_status(job_id="job-123", status=JobStatus.PROCESSING) is None


@pytest.mark.asyncio
async def test_a_failure_reported_by_hand_is_named(rows: Rows) -> None:
    """By the chunk row's id; an unknown one is an error that says so."""
    job_id = rows.create(5)
    tracker = ChunkProgressTracker(job_tracker=rows.jobs, chunk_service=rows.chunks)
    await tracker.report_chunk_failure(chunk_id=ids.chunk_id(job_id, 4), error_message="Document AI timeout")
    [failure] = rows.jobs.snapshot(job_id).failures
    assert failure.message == "Chunk 5 (pages 101-125) failed: Document AI timeout"
    with pytest.raises(ChunkNotFound, match="nope"):
        await rows.chunks.record_chunk_failure(chunk_id="nope", error_message="x")


@pytest.mark.asyncio
async def test_counts_are_those_of_the_documents_newest_job(rows: Rows) -> None:
    """Two jobs over one document do not add up."""
    first = rows.create(3)
    rows.complete(first, 0)
    with rows.database.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE processing_jobs SET created_at = created_at - 60")
    rows.create(5)
    progress = await rows.chunks.get_chunk_progress("d")
    assert (progress.total, progress.completed) == (5, 0)
    nothing = await rows.chunks.get_chunk_progress("unknown")
    assert (nothing.total, nothing.progress_pct) == (0, 0)


class Reports(RuleBasedStateMachine):
    """Reports in any order, repeated, late or lost: the counts are those of the distinct chunks, and the history tells
    the same as the rows.
    """

    total = 4

    def __init__(self) -> None:
        super().__init__()
        self.rows = Reports.shared
        self.job_id = self.rows.create(self.total, pages=5)
        self.version = 1
        self.pct = 0
        self.completed: set[int] = set()
        self.merging = False
        self.over = False

    shared: Rows

    @rule(index=st.integers(0, 3), lease=st.sampled_from([-1.0, LEASE]))
    def start(self, index: int, lease: float) -> None:
        self.rows.start(self.job_id, index, lease=lease, max_tries=10**6)

    @rule(index=st.integers(0, 3), done=st.integers(0, 7), attempt=st.integers(1, 3))
    def progress(self, index: int, done: int, attempt: int) -> None:
        self.rows.progress(self.job_id, index, attempt=attempt, done=done)

    @rule(index=st.integers(0, 3))
    def complete(self, index: int) -> None:
        change = self.rows.complete(self.job_id, index)
        assert (change is not None) == (index not in self.completed and not self.merging and not self.over)
        if change is not None:
            self.completed.add(index)

    @rule(indices=st.lists(st.integers(0, 3), max_size=5))
    def complete_together(self, indices: list[int]) -> None:
        told = [Completion(chunk_id=ids.chunk_id(self.job_id, index)) for index in indices]
        changed = {change.chunk.chunk_index for change in self.rows.complete_all(told) if change.chunk}
        assert changed == (set() if self.merging or self.over else set(indices) - self.completed)
        self.completed |= changed

    @rule(index=st.integers(0, 3), attempt=st.none() | st.integers(1, 3))
    def fail(self, index: int, attempt: int | None) -> None:
        change = self.rows.fail(self.job_id, index, attempt=attempt)
        assert change is None or index not in self.completed

    @rule(index=st.integers(0, 3), dispatch=st.integers(1, 3))
    def lose(self, index: int, dispatch: int) -> None:
        assert self.rows.lose(self.job_id, index, dispatch=dispatch) is None or index not in self.completed

    @rule(index=st.integers(0, 3), dispatch=st.integers(1, 3))
    def again(self, index: int, dispatch: int) -> None:
        assert self.rows.again(self.job_id, index, dispatch=dispatch) is None or index not in self.completed

    @precondition(lambda self: not (self.merging or self.over))
    @rule(failed=st.sets(st.integers(0, 3), max_size=2))
    def settle(self, failed: set[int]) -> None:
        """Every chunk ends, so that merges are no rare luck."""
        for index in set(range(self.total)) - self.completed:
            (self.fail if index in failed else self.complete)(index, **({"attempt": None} if index in failed else {}))

    @rule()
    def send_body(self) -> None:
        self.rows.send_body(self.job_id)

    @rule(lease=st.sampled_from([-1.0, LEASE]))
    def merge(self, lease: float) -> None:
        counts = self.rows.jobs.snapshot(self.job_id).chunks
        claimed = self.rows.claim(self.job_id, lease=lease, max_tries=10**6) is not None
        assert not claimed or (counts.settled and not self.over)
        assert claimed or self.merging or self.over or not counts.settled
        self.merging = self.merging or claimed

    @precondition(lambda self: self.merging or self.over)
    @rule(attempt=st.integers(1, 4))
    def retry_body(self, attempt: int) -> None:
        self.rows.release_body(self.job_id, attempt)

    @precondition(lambda self: self.merging or self.over or self.rows.jobs.snapshot(self.job_id).chunks.settled)
    @rule(attempt=st.integers(1, 4))
    def finish(self, attempt: int) -> None:
        job = self.rows.finish(self.job_id, attempt)
        assert job is None or (self.merging and not self.over)
        self.over = self.over or job is not None

    @rule(status=st.sampled_from([JobStatus.FAILED, JobStatus.CANCELLED]))
    def end(self, status: JobStatus) -> None:
        assert (self.rows.end(self.job_id, status) is not None) == (not self.over)
        self.over = True

    @precondition(lambda self: self.over)
    @rule()
    def reopen(self) -> None:
        complete = self.rows.jobs.snapshot(self.job_id).status is JobStatus.COMPLETED
        assert (self.rows.reopen(self.job_id) is None) == complete
        if not complete:
            self.merging = self.over = False

    @rule(status=st.sampled_from(JobStatus))
    def tell(self, status: JobStatus) -> None:
        told = self.rows.tell(self.job_id, status)
        assert told is None or not self.over
        self.over = self.over or (told is not None and told.status.terminal)

    @invariant()
    def the_bar_does_not_lie(self) -> None:
        snapshot = self.rows.jobs.snapshot(self.job_id)
        counts = snapshot.chunks
        assert counts.pending + counts.processing + counts.completed + counts.failed == self.total
        assert counts.completed == len(self.completed)
        assert snapshot.progress_pct == len(self.completed) * 100 // self.total
        assert snapshot.progress_pct >= self.pct
        assert snapshot.version >= self.version
        assert snapshot.status.terminal == self.over
        self.pct, self.version = snapshot.progress_pct, snapshot.version

    @invariant()
    def the_rows_and_the_history_agree(self) -> None:
        assert audit(self.rows.database, self.job_id) == []


def test_any_order_of_reports_ends_in_true_counts(tmp_path: Any) -> None:
    """Property test of the transition tables and the statements that walk them."""
    Reports.shared = Rows(f"sqlite:///{tmp_path}/reports.db")
    machine: Any = Reports.TestCase
    machine.settings = settings(
        max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    machine("runTest").runTest()
    Reports.shared.database.dispose()


class GroupReports(RuleBasedStateMachine):
    """The same of a group, whose chunks are as large as their tasks report: it is over exactly when all of them are, or
    somebody ended it, and never more is done than there is.
    """

    total = 3
    shared: Rows

    def __init__(self) -> None:
        super().__init__()
        self.rows = GroupReports.shared
        self.job_id = self.rows.create(self.total, pages=1, shape=JobShape.GROUP, grows=True)
        self.ended_early = False
        self.pages_done = 0
        self.work_pct = 0.0

    @rule(index=st.integers(0, 2), lease=st.sampled_from([-1.0, LEASE]))
    def start(self, index: int, lease: float) -> None:
        self.rows.start(self.job_id, index, lease=lease, max_tries=10**6)

    @rule(
        index=st.integers(0, 2),
        done=st.integers(0, 10**13),
        total=st.none() | st.integers(-1, 10**13),
        attempt=st.integers(1, 2),
    )
    def progress(self, index: int, done: int, total: int | None, attempt: int) -> None:
        self.rows.progress(self.job_id, index, attempt=attempt, done=done, total=total)

    @rule(index=st.integers(0, 2), total=st.none() | st.integers(0, 10**13))
    def complete(self, index: int, total: int | None) -> None:
        change = self.rows.complete(self.job_id, index, total=total)
        assert change is None or change.job.status.terminal == change.job.chunks.settled

    @rule(index=st.integers(0, 2))
    def fail(self, index: int) -> None:
        """By hand, so that only the next tick ends the job."""
        if self.rows.fail(self.job_id, index) is not None:
            self.rows.settle(self.job_id)

    @rule(index=st.integers(0, 2), dispatch=st.integers(1, 3))
    def lose(self, index: int, dispatch: int) -> None:
        self.rows.lose(self.job_id, index, dispatch=dispatch)

    @rule()
    def merge(self) -> None:
        assert self.rows.claim(self.job_id) is None and self.rows.send_body(self.job_id) is None

    @rule(status=st.sampled_from([JobStatus.FAILED, JobStatus.CANCELLED]))
    def end(self, status: JobStatus) -> None:
        self.ended_early = self.rows.end(self.job_id, status) is not None or self.ended_early

    @precondition(lambda self: self.rows.jobs.snapshot(self.job_id).status.terminal)
    @rule()
    def reopen(self) -> None:
        whole = self.rows.jobs.snapshot(self.job_id).status is JobStatus.COMPLETED
        assert (self.rows.reopen(self.job_id) is None) == whole
        self.ended_early, self.work_pct = False, 0.0

    @invariant()
    def it_is_over_with_its_last_chunk(self) -> None:
        snapshot = self.rows.jobs.snapshot(self.job_id)
        assert snapshot.status.terminal == (snapshot.chunks.settled or self.ended_early)
        if not self.ended_early and snapshot.status.terminal:
            counts = snapshot.chunks
            expected = JobStatus.PARTIAL if counts.failed and counts.completed else JobStatus.COMPLETED
            assert snapshot.status is (expected if counts.completed else JobStatus.FAILED)

    @invariant()
    def the_bar_does_not_lie(self) -> None:
        snapshot = self.rows.jobs.snapshot(self.job_id)
        assert self.pages_done <= snapshot.pages_done <= snapshot.pages_total
        assert self.work_pct <= snapshot.work_pct <= 100.0
        assert (snapshot.work_pct == 100.0) == snapshot.status.ended_well
        self.pages_done, self.work_pct = snapshot.pages_done, snapshot.work_pct
        assert audit(self.rows.database, self.job_id) == []


def test_any_order_of_reports_ends_a_group_once(tmp_path: Any) -> None:
    """Property test of the end without a body, and of sizes that are known late."""
    GroupReports.shared = Rows(f"sqlite:///{tmp_path}/groups.db")
    machine: Any = GroupReports.TestCase
    machine.settings = settings(
        max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    machine("runTest").runTest()
    GroupReports.shared.database.dispose()


def test_a_body_that_the_broker_did_not_take_costs_nothing(rows: Rows) -> None:
    """G7: however long it is away, the body is due at the next tick, under the same number."""
    job_id = rows.create(1)
    rows.complete(job_id, 0)
    for _ in range(5):
        rows.database.write(lambda conn: execute(conn, "UPDATE processing_jobs SET body_due_at = 0"))
        due = rows.database.write(lambda conn: body.take_dispatch(conn, job_id, grace=LEASE))
        assert due is not None
        assert due.job.body_dispatches == 1
        assert rows.database.write(lambda conn: body.take_dispatch(conn, job_id, grace=LEASE)) is None
        rows.database.write(lambda conn: body.not_sent(conn, job_id, dispatches=1))
    due = rows.database.write(lambda conn: body.take_dispatch(conn, job_id, grace=LEASE))
    assert due is not None
    rows.database.write(lambda conn: body.sent(conn, job_id, dispatches=1, grace=LEASE))
    assert rows.database.write(lambda conn: body.take_dispatch(conn, job_id, grace=LEASE)) is None
    rows.database.write(lambda conn: execute(conn, "UPDATE processing_jobs SET body_due_at = 0"))
    due = rows.database.write(lambda conn: body.take_dispatch(conn, job_id, grace=LEASE))
    assert due is not None
    assert due.job.body_dispatches == 2


def test_a_job_is_named_by_the_beginning_of_its_id(rows: Rows) -> None:
    """With or without its prefix, where one job alone begins so; signs of LIKE stand for themselves."""
    for job_id in (rows.create(), rows.create()):
        assert rows.jobs.named(job_id).job_id == job_id
        assert rows.jobs.named(job_id.removeprefix("job_")[:12]).job_id == job_id
        assert rows.jobs.named(job_id[:16]).job_id == job_id
    for text in ("job_", "", "job_%%%%", "____", "job_zzzz"):
        with pytest.raises(JobNotFound, match="There is no job"):
            rows.jobs.named(text)
    twins = ["job_aaaa1" + "0" * 27, "job_aaaa2" + "0" * 27]
    for twin in twins:
        new = rows.new_job(twin, 1)
        rows.database.write(lambda conn, new=new: jobs.create(conn, new, due=LEASE))  # type: ignore[misc]
    with pytest.raises(JobNotFound, match=f"More than one job begins with 'aaaa': {', '.join(twins)}"):
        rows.jobs.named("aaaa")
