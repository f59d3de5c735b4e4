"""The audit, asked for and unasked: rows against counters, history against rows, on SQLite and PostgreSQL."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy.engine import Connection
from structlog.testing import capture_logs

from celery_progress_ext import JobStatus
from celery_progress_ext.exceptions import JobNotFound
from celery_progress_ext.recovery.auditor import AuditRun, BackgroundAuditor
from celery_progress_ext.storage.audit import Drift, Source, audit, begin
from tests.support.chords import Bench
from tests.support.processes import ROOT
from tests.support.rows import Rows

#: What is done to the rows past the library, and what the audit says of it: (what, found, against, expected).
_DEEDS = {
    "a counter": (
        "UPDATE processing_jobs SET completed_chunks = 2, pending_chunks = 0",
        [("pending_chunks", 0, "rows", 1), ("completed_chunks", 2, "rows", 1)],
    ),
    "the pages": ("UPDATE processing_jobs SET pages_done = 7", [("pages_done", 7, "rows", 25)]),
    "the percent": ("UPDATE processing_jobs SET progress_pct = 99", [("progress_pct", 99, "rows", 33)]),
    "the status": (
        "UPDATE processing_jobs SET status = 'COMPLETED'",
        [("status", "COMPLETED", "history", "PROCESSING")],
    ),
    "the version": ("UPDATE processing_jobs SET version = 2", [("version", 2, "history", "at least 4")]),
    "a chunk and its counters": (
        """UPDATE document_ocr_chunks SET status = 'failed' WHERE chunk_index = 2;
           UPDATE processing_jobs SET failed_chunks = 1, pending_chunks = 0""",
        [("chunk 3 status", "failed", "history", "pending")],
    ),
    "an attempt": (
        "UPDATE document_ocr_chunks SET attempt = 5 WHERE chunk_index = 0",
        [("chunk 1 attempt", 5, "history", 1)],
    ),
    "a chunk that is gone": (
        "DELETE FROM document_ocr_chunks WHERE chunk_index = 2",
        [
            ("total_chunks", 3, "rows", 2),
            ("pending_chunks", 1, "rows", 0),
            ("pages_total", 75, "rows", 50),
            ("progress_pct", 33, "rows", 50),
        ],
    ),
    "an event that is gone": (
        "DELETE FROM job_events WHERE type = 'chunk_completed'",
        [("chunk 1 status", "completed", "history", "processing")],
    ),
    "an event that is there twice": (
        """INSERT INTO job_events (job_id, version, type, at, chunk_index, attempt)
           SELECT job_id, version + 3, type, at, chunk_index, attempt FROM job_events WHERE type = 'job_created'""",
        [
            ("event at version 4", "job_created", "history", "a version above 4"),
            ("event at version 4", "job_created", "history", "that a job is created once"),
        ],
    ),
}


def _spoil(rows: Rows, statements: str) -> None:
    with rows.database.engine.begin() as conn:
        for statement in statements.split(";"):
            conn.exec_driver_sql(statement)


def _at_work(rows: Rows, total: int = 3) -> str:
    """A job with a completed and a running chunk, at version 4."""
    job_id = rows.create(total)
    rows.start(job_id, 0)
    rows.complete(job_id, 0)
    rows.start(job_id, 1)
    return job_id


def _ended(rows: Rows, total: int = 3) -> str:
    job_id = rows.create(total)
    for index in range(total):
        rows.complete(job_id, index)
    rows.finish(job_id, rows.claim(job_id).body_attempt)
    return job_id


@pytest.mark.parametrize(("deed", "expected"), _DEEDS.values(), ids=_DEEDS.keys())
def test_what_was_changed_past_the_library_is_found(
    rows: Rows, deed: str, expected: list[tuple[str, int | str, str, int | str]]
) -> None:
    """And named, with what it was compared with, and nothing beside it."""
    job_id = _at_work(rows)
    _spoil(rows, deed)
    drifts = audit(rows.database)
    assert {drift.job_id for drift in drifts} == {job_id}
    found = [(drift.what, drift.found, drift.against.value, drift.expected) for drift in drifts]
    assert found == expected


def test_a_drift_is_a_sentence(rows: Rows) -> None:
    """That a person can act on."""
    job_id = _at_work(rows)
    drift = Drift(job_id=job_id, version=4, what="completed_chunks", found=2, against=Source.ROWS, expected=1)
    assert str(drift) == f"{job_id}: completed_chunks is 2, its chunk rows say 1"
    assert "run the job again" in drift.advice


def test_only_the_job_that_drifted_is_told(rows: Rows) -> None:
    """One job can be asked for; an unknown one is an error."""
    true, drifted = _at_work(rows), _at_work(rows)
    _spoil(rows, f"UPDATE processing_jobs SET pages_done = 1 WHERE id = '{drifted}'")
    assert audit(rows.database, true) == []
    assert [drift.job_id for drift in audit(rows.database)] == [drifted]
    with pytest.raises(JobNotFound, match="job_none"):
        audit(rows.database, "job_none")


def test_a_percent_set_by_hand_is_no_drift(rows: Rows) -> None:
    """A caller may know more than the chunks."""
    job_id = _at_work(rows)
    rows.tell(job_id, JobStatus.PROCESSING, progress_pct=50)
    assert audit(rows.database) == []


def test_workers_that_write_meanwhile_are_no_drift(rows: Rows) -> None:
    """The job is read as it was at one moment, however many pages that takes."""
    job_id = _at_work(rows)

    def read(conn: Connection) -> list[Drift]:
        work = begin(conn, job_id)
        assert work is not None
        work.read(conn, 1)
        assert rows.complete(job_id, 1) is not None
        work.read(conn, 5)
        assert rows.complete(job_id, 2) is not None
        work.read(conn)
        return work.drifts()

    assert rows.database.read(read) == []
    assert audit(rows.database) == []


def test_a_page_s_size_changes_nothing(rows: Rows) -> None:
    """One row at a time, or all at once."""
    job_id = _ended(rows, total=5)
    _spoil(rows, "UPDATE document_ocr_chunks SET attempt = 3 WHERE chunk_index = 4")

    def read(conn: Connection) -> tuple[list[Drift], list[int]]:
        work = begin(conn, job_id)
        assert work is not None
        counts = []
        while not work.done:
            counts.append(work.read(conn, 1))
        return work.drifts(), counts

    drifts, counts = rows.database.read(read)
    assert drifts == audit(rows.database) and drifts
    assert max(counts) == 1
    assert sum(counts) == 5 + len(rows.jobs.history(job_id))


def test_many_chunks_that_differ_are_named_in_part(rows: Rows) -> None:
    """Ten of them, and how many there are."""
    rows.create(40)
    _spoil(rows, "UPDATE document_ocr_chunks SET attempt = 3")
    drifts = audit(rows.database)
    assert len(drifts) == 11
    assert (drifts[-1].what, drifts[-1].found) == ("number of chunks that differ", 40)


def test_the_command_says_what_to_do_and_exits_3(sqlite_url: str) -> None:
    """One line a drift; a job that is true is audited with 0, an unknown one is 1."""
    rows = Rows(sqlite_url)
    true, drifted = _at_work(rows), _at_work(rows)
    _spoil(rows, f"UPDATE processing_jobs SET pages_done = 1 WHERE id = '{drifted}'")
    rows.database.dispose()
    environ = {
        "PATH": "",
        "CELERY_BROKER_URL": "memory://",
        "CELERY_RESULT_BACKEND": "cache+memory://",
        "PROGRESS_DATABASE_URL": sqlite_url,
    }
    command = [sys.executable, "-m", "celery", "-A", "tests.support.chord_app", "progress", "audit"]
    said = {}
    for job in ("", true, "job_none"):
        said[job] = subprocess.run(
            [*command, *filter(None, [job])], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )
    assert [done.returncode for done in said.values()] == [3, 0, 1], said
    [line] = said[""].stdout.splitlines()
    assert line.startswith(f"{drifted}: pages_done is 1, its chunk rows say 25; ") and "run the job again" in line
    assert "no job 'job_none'" in said["job_none"].stderr


def test_a_job_is_checked_once_after_it_ended(rows: Rows) -> None:
    """And once more when a retry ended; nobody has to ask."""
    check = BackgroundAuditor(rows.database)
    job_id = rows.create(2)
    rows.end(job_id)
    assert check.run() == AuditRun(jobs=1)
    assert check.run() == AuditRun()
    rows.reopen(job_id)
    rows.end(job_id)
    assert check.run() == AuditRun(jobs=1)
    assert check.run() == AuditRun()


def test_a_drift_is_logged_once(rows: Rows) -> None:
    """By one of two beats, at error level, with what differs; the history of the job stays as it was."""
    job_id = _ended(rows)
    _spoil(rows, "UPDATE processing_jobs SET pages_done = 1")
    events = rows.jobs.history(job_id)
    with capture_logs() as logs:
        first = [BackgroundAuditor(rows.database).run() for _ in range(2)]
    assert first == [AuditRun(jobs=1, drifted=1), AuditRun()]
    [line] = logs
    assert (line["event"], line["log_level"], line["job_id"]) == ("audit_drift", "error", job_id)
    assert line["drifts"] == [f"{job_id}: pages_done is 1, its chunk rows say 75"]
    assert rows.jobs.history(job_id) == events


def test_a_running_job_that_drifts_is_told_before_it_ends(rows: Rows) -> None:
    """Once for each version, by whichever beat looks first."""
    job_id = _at_work(rows)
    _spoil(rows, "UPDATE processing_jobs SET pages_done = 1")
    checks = [BackgroundAuditor(rows.database), BackgroundAuditor(rows.database)]
    assert [check.run().drifted for check in checks] == [1, 0]
    rows.complete(job_id, 1)
    assert [check.run().drifted for check in checks] == [1, 0]


def test_running_jobs_take_turns(rows: Rows) -> None:
    """However many there are, a run reads so many rows and no more, and in the end each was looked at."""
    jobs = sorted(_at_work(rows) for _ in range(5))
    rows_of_two_jobs = 2 * (3 + 4)
    _spoil(rows, f"UPDATE processing_jobs SET pages_done = 1 WHERE id = '{jobs[4]}'")
    check = BackgroundAuditor(rows.database, rows=rows_of_two_jobs + 1)
    assert [check.run() for _ in range(3)] == [AuditRun(jobs=2), AuditRun(jobs=2), AuditRun(jobs=1, drifted=1)]
    assert check.run() == AuditRun(jobs=2)


def test_an_ended_job_of_many_rows_is_checked_over_several_runs(rows: Rows) -> None:
    """Its 20 chunks and 23 events are never read in one tick."""
    _ended(rows, total=20)
    _spoil(rows, "UPDATE processing_jobs SET pages_done = 1")
    check = BackgroundAuditor(rows.database, rows=10)
    runs = [check.run() for _ in range(6)]
    assert runs == [AuditRun()] * 4 + [AuditRun(jobs=1, drifted=1), AuditRun()]


def test_a_job_retried_while_it_is_checked_is_left_alone(rows: Rows) -> None:
    """Half of its rows are of another time; it is checked when it ends again."""
    job_id = rows.create(20)
    rows.end(job_id)
    check = BackgroundAuditor(rows.database, rows=10)
    assert check.run() == AuditRun()
    rows.reopen(job_id)
    rows.complete(job_id, 19)
    assert check.run() == AuditRun()
    rows.end(job_id)
    assert [check.run().jobs for _ in range(4)].count(1) == 1


def test_a_running_job_of_many_rows_waits_for_its_end(rows: Rows) -> None:
    """And does not keep the others from their turn."""
    jobs = sorted([rows.create(20), rows.create(2)])
    check = BackgroundAuditor(rows.database, rows=10)
    assert sum(check.run().jobs for _ in range(4)) >= 1
    for job_id in jobs:
        rows.end(job_id)
    assert sum(check.run().jobs for _ in range(4)) == 2


def test_the_tick_tells_how_many_jobs_drifted(sqlite_chords: Bench) -> None:
    """In its answer, beside how many it looked at."""
    job = sqlite_chords.chord([sqlite_chords.work(0)]).apply_async()
    job.cancel()
    with sqlite_chords.progress.database.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE processing_jobs SET pages_done = 1")
    first, second = (sqlite_chords.progress.reconciler.tick() for _ in range(2))
    assert (first["check"], first["drifted"]) == (1, 1)
    assert (second["check"], second["drifted"]) == (0, 0)
    [drift] = sqlite_chords.progress.audit(job.id)
    assert drift.what == "pages_done"
