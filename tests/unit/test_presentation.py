"""Progress as plain lines."""

from __future__ import annotations

import io
import time
from dataclasses import replace

from rich.console import Console

from celery_progress_ext import ChunkProgress, JobSnapshot, JobStatus
from celery_progress_ext.eta import Eta
from celery_progress_ext.jobs import ChunkFailure, FinishTime, StalledChunk
from celery_progress_ext.stages import StageName
from celery_progress_ext.waiting import Waiting
from tasks.presentation import Bars, Lines


def _snapshot(completed: int = 0, *, stage: StageName = StageName.CHUNK_PROCESSING, total: int = 4) -> JobSnapshot:
    return JobSnapshot(
        job_id="job_1",
        matter_id="m",
        document_id="d",
        version=completed + 1,
        status=JobStatus.PROCESSING,
        stage=f"Processing chunk {completed}/{total}",
        stage_name=stage,
        progress_pct=completed * 100 // total,
        chunks=ChunkProgress(total=total, pending=total - completed, processing=0, completed=completed, failed=0),
        pages_total=total * 25,
        pages_done=completed * 25,
        created_at=0.0,
    )


def _lines(*snapshots: JobSnapshot) -> list[str]:
    stream = io.StringIO()
    display = Lines(stream)
    for snapshot in snapshots:
        display.show(snapshot)
    return stream.getvalue().splitlines()


def test_a_count_is_printed_once() -> None:
    """Page progress alone is no new line."""
    assert _lines(_snapshot(1), replace(_snapshot(1), pages_done=30)) == [
        "Processing chunk 0/4",
        "Processing chunk 1/4",
    ]


def test_counts_that_were_skipped_are_printed_in_order() -> None:
    """A watcher may miss snapshots, as the newest wins; the counts were passed all the same."""
    assert _lines(_snapshot(0), _snapshot(3)) == [f"Processing chunk {number}/4" for number in range(4)]


def test_a_merge_that_was_too_quick_to_be_seen_is_printed() -> None:
    """What is completed has been merged."""
    ended = replace(_snapshot(4, stage=StageName.MERGE), status=JobStatus.COMPLETED)
    assert _lines(_snapshot(3), ended)[-2:] == ["Processing chunk 4/4", "Merging OCR results"]


def test_a_failure_is_named_once() -> None:
    """With its chunk and pages, as everywhere."""
    failure = ChunkFailure(chunk_index=1, page_start=26, page_end=50, error="out of paper")
    failed = replace(_snapshot(1), failures=(failure,))
    assert _lines(failed, failed).count("Chunk 2 (pages 26-50) failed: out of paper") == 1


def test_waiting_for_a_worker_prints_nothing() -> None:
    """A job that nobody works on has no chunk to count."""
    assert _lines(replace(_snapshot(0, stage=StageName.QUEUED), status=JobStatus.PENDING)) == []


def test_bars_show_chunks_pages_and_the_time_left() -> None:
    """All that a person at a terminal asks for."""
    stream = io.StringIO()
    soon = time.time() + 100
    estimate = FinishTime.of(Eta(finish_at=soon, earliest=soon - 60, latest=soon + 60))
    with Bars(Console(file=stream, force_terminal=True, width=120)) as bars:
        bars.show(replace(_snapshot(1), eta=estimate))
    for words in ("Processing chunk 1/4", "chunks", "25/100", "about ", "min left"):
        assert words in stream.getvalue()


def test_what_a_job_waits_for_is_said_once_for_each_wait() -> None:
    """Not every time that it has lasted longer; after work, a wait is a new one."""
    working = _snapshot(1)
    silent = [
        replace(working, waiting=Waiting(reason=f"No worker has answered for {seconds} s.", since=0.0))
        for seconds in (40, 50)
    ]
    assert _lines(working, *silent, working, silent[0])[2:] == [
        "No worker has answered for 40 s.",
        "No worker has answered for 40 s.",
    ]


def test_bars_show_what_a_job_waits_for_and_for_how_long_a_page_is_stuck() -> None:
    """In place of a finish time that nobody knows."""
    stream = io.StringIO()
    waiting = replace(_snapshot(1), waiting=Waiting(reason="No worker listens to queue ocr.", since=0.0))
    stuck = StalledChunk(chunk_index=1, page_start=26, page_end=50, seconds=180.0, reason="it is alive")
    with Bars(Console(file=stream, force_terminal=True, width=120)) as bars:
        bars.show(waiting)
        bars.show(replace(waiting, stalled=(stuck,)))
    for words in ("No worker listens to queue ocr.", "Chunk 2 has made no progress for 3 min: it is alive"):
        assert words in stream.getvalue()
