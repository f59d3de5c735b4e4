"""Jobs as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.cells import cell_len

from celery_progress_ext import listing
from celery_progress_ext.eta import Eta
from celery_progress_ext.jobs import FinishTime, JobSnapshot, JobStatus
from tests.support.live import make_snapshot

BEGUN = datetime(2026, 11, 3, 14, 0, tzinfo=UTC)
NOW = (BEGUN + timedelta(minutes=20)).timestamp()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the width of the terminal."""

    def columns(width: int) -> None:
        monkeypatch.setattr(listing, "line_width", lambda: width)

    return columns


def _job(number: int, title: str | None, **changes: Any) -> JobSnapshot:
    snapshot = make_snapshot(1, job_id=f"job_{number:08d}{'ab' * 12}", title=title)
    return replace(snapshot, **{"created_at": BEGUN, "started_at": BEGUN + timedelta(minutes=1), **changes})


def test_a_row_has_a_short_id_the_state_the_times_and_the_name(terminal: Callable[[int], None]) -> None:
    """And a job that is not over says what it does, below."""
    terminal(80)
    ended = _job(2, "minutes.pdf", status=JobStatus.COMPLETED, work_pct=100.0, finished_at=BEGUN + timedelta(minutes=3))
    eta = FinishTime.of(Eta(finish_at=NOW + 300, earliest=NOW + 240, latest=NOW + 400))
    head, first, below, second = listing.rows([_job(1, "scan.pdf", work_pct=31.4, eta=eta), ended], NOW)
    assert head.split() == ["job", "state", "%", "age", "took", "title"]
    assert first.split() == ["00000001", "PROCESSING", "31", "20", "min", "19:00", "scan.pdf"]
    assert below.startswith("  Processing chunk 1/4 · about ")
    assert below.endswith("5 min left")
    assert second.split() == ["00000002", "COMPLETED", "100", "20", "min", "2:00", "minutes.pdf"]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("title", ["scan of the minutes of the town council, 1923, part 2.pdf", "議事録" * 20, None])
def test_every_line_fits(terminal: Callable[[int], None], width: int, title: str | None) -> None:
    """Whatever the file is called, in cells of a terminal."""
    terminal(width)
    eta = FinishTime.of(Eta(finish_at=NOW + 30_000, earliest=NOW + 20_000, latest=NOW + 90_000))
    jobs = [_job(1, title, eta=eta), _job(2, title, created_at=BEGUN - timedelta(days=20))]
    assert max(cell_len(line) for line in listing.rows(jobs, NOW)) <= width


def test_a_long_name_keeps_its_end() -> None:
    """What tells files of one series apart."""
    assert listing.shortened("minutes of the council, part 12.pdf", 17) == "minutes…t 12.pdf"
    assert listing.shortened("scan.pdf", 17) == "scan.pdf"


def test_one_job_with_what_happened_to_it(terminal: Callable[[int], None]) -> None:
    """Its name, its whole id, its times, and its history, in local time."""
    terminal(80)
    event = {"at": BEGUN.isoformat(), "type": "chunk_failed", "chunk_index": 4, "message": "Document AI timeout"}
    said = list(listing.lines(_job(1, "scan.pdf", error="No chunk was completed"), [event], NOW))
    local = BEGUN.astimezone().strftime("%H:%M:%S")
    assert said[0] == "scan.pdf"
    assert said[1].startswith("job_00000001ab")
    assert f"created {local}" in said[3]
    assert "  No chunk was completed" in said
    assert said[-1] == f"  {local} chunk_failed chunk 5: Document AI timeout"
