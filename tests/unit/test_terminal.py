"""Progress as plain lines."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from celery_progress_ext import ChunkProgress, JobSnapshot, JobStatus
from celery_progress_ext.eta import Eta
from celery_progress_ext.jobs import ChunkFailure, FinishTime, StalledChunk
from celery_progress_ext.stages import StageName
from celery_progress_ext.terminal import Bars, Lines
from celery_progress_ext.waiting import Waiting


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


def _estimate(now: float, earliest: float, finish: float, latest: float) -> FinishTime:
    return FinishTime.of(Eta(finish_at=now + finish, earliest=now + earliest, latest=now + latest))


class Screen:
    """A bar on a terminal of this width, with a clock that the test moves."""

    def __init__(self, width: int = 80, **options: str) -> None:
        self.now = time.time()
        self.stream = io.StringIO()
        self.console = Console(file=self.stream, force_terminal=True, width=width, color_system=None)
        self.bars = Bars(self.console, clock=lambda: self.now, **options)

    def lines(self) -> list[str]:
        """What it shows now."""
        with self.console.capture() as capture:
            self.console.print(self.bars)
        return capture.get().splitlines()


def test_a_bar_says_what_is_being_done_before_there_is_a_job() -> None:
    """From the first moment on."""
    screen = Screen(title="scan.pdf")
    screen.bars.step("Starting worker")
    [line] = screen.lines()
    assert "Starting worker  scan.pdf" in line
    assert line.endswith("0:00")


def test_a_bar_shows_work_pages_and_the_time_left() -> None:
    """All that a person at a terminal asks for; the percent is that of the work."""
    screen = Screen(title="scan.pdf")
    estimate = _estimate(screen.now, 40, 100, 160)
    screen.bars.show(replace(_snapshot(1), eta=estimate, work_pct=31.4))
    head, bar, when = screen.lines()
    assert "Processing chunk 1/4" in head
    assert "31 % pages 25/100" in bar
    assert "2 min left" in when


def test_a_bar_counts_down_between_two_snapshots() -> None:
    """The clock is enough."""
    screen = Screen()
    estimate = _estimate(screen.now, 240, 300, 360)
    screen.bars.show(replace(_snapshot(1), eta=estimate))
    assert "5 min left" in screen.lines()[-1]
    screen.now += 180
    assert "2 min left" in screen.lines()[-1]
    assert screen.lines()[0].rstrip().endswith("3:00")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_fits_the_terminal(width: int) -> None:
    """However long the file's name is."""
    screen = Screen(width, title="a scan of the minutes of the council of the year 1923, " * 3)
    screen.bars.show(_snapshot(2))
    lines = screen.lines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= width
    assert "Processing chunk 2/4" in lines[0]


def test_a_bar_says_why_nothing_is_heard() -> None:
    """Until something is."""
    screen = Screen()
    screen.bars.show(_snapshot(1))
    screen.bars.trouble("http://127.0.0.1:8000 does not answer; trying again.")
    assert "does not answer" in screen.lines()[-1]
    screen.bars.show(_snapshot(2))
    assert "does not answer" not in "".join(screen.lines())


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


def test_a_bar_shows_what_a_job_waits_for_and_for_how_long_a_page_is_stuck() -> None:
    """In place of a finish time that nobody knows."""
    screen = Screen(120)
    waiting = replace(_snapshot(1), waiting=Waiting(reason="No worker listens to queue ocr.", since=0.0))
    stuck = StalledChunk(chunk_index=1, page_start=26, page_end=50, seconds=170.0, reason="it is alive")
    screen.bars.show(replace(waiting, stalled=(stuck,)))
    screen.now += 10
    *_, waits, stalled = screen.lines()
    assert waits.strip() == "No worker listens to queue ocr."
    assert stalled.strip() == "Chunk 2 has made no progress for 3 min: it is alive"


def test_a_live_bar_is_drawn_and_left_at_its_end() -> None:
    """Through the terminal's own escape sequences."""
    screen = Screen(title="scan.pdf", footer="web: http://127.0.0.1:8000/")
    with screen.bars as bars:
        bars.step("Starting worker")
        bars.show(replace(_snapshot(4), status=JobStatus.COMPLETED, stage="Searchable PDF is ready", work_pct=100.0))
    drawn = screen.stream.getvalue()
    assert "web: http://127.0.0.1:8000/" in drawn
    assert "✓" in drawn.rpartition("Completed")[0][-20:]
