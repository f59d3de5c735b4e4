"""A snapshot for people: in one line, in a terminal, in a notebook."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from celery_progress_ext.display import as_html
from celery_progress_ext.eta import Eta
from celery_progress_ext.jobs import ChunkFailure, FinishTime, JobSnapshot, JobStatus, StalledChunk
from tests.support.live import make_snapshot

STALLED = StalledChunk(chunk_index=2, page_start=51, page_end=75, seconds=300.0, reason="alive, but no page is done")


def failure(error: str, index: int = 4) -> ChunkFailure:
    return ChunkFailure(chunk_index=index, page_start=101, page_end=125, error=error)


def printed(snapshot: JobSnapshot) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120).print(snapshot)
    return stream.getvalue()


def test_a_snapshot_s_repr_is_one_line() -> None:
    """Also where an error has several, and with many failures."""
    snapshot = make_snapshot(
        7, job_id="job_x", error="No chunk\nwas completed", failures=tuple(failure(str(n), n) for n in range(50))
    )
    said = repr(snapshot)
    assert said == (
        "<JobSnapshot job_x PROCESSING: Processing chunk 1/4, 25 %, pages 25/100 (No chunk was completed) (version 7)>"
    )


def test_the_times_of_a_snapshot_are_datetimes() -> None:
    """Aware ones, so that they can be compared and formatted at once; on the wire they are text as before."""
    eta = FinishTime.of(Eta(finish_at=1_700_000_100.0, earliest=1_700_000_090.0, latest=1_700_000_120.0))
    snapshot = make_snapshot(heartbeat_at=1_700_000_001.5, finished_at=None, eta=eta)
    assert snapshot.created_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (eta.latest - eta.earliest).total_seconds() == 30
    wire: dict[str, Any] = snapshot.to_dict()
    assert wire["heartbeat_at"] == "2023-11-14T22:13:21.500+00:00"
    assert wire["eta"]["finish_at"] == "2023-11-14T22:15:00.000+00:00"


def test_a_notebook_shows_what_failed_as_text() -> None:
    """Nothing of a job is markup: an error, a stage, an id."""
    hostile = "<script>alert(1)</script>"
    snapshot = make_snapshot(
        job_id='job_"><i>', stage=hostile, failures=(failure(hostile),), failures_total=9, stalled=(STALLED,)
    )
    shown = snapshot._repr_html_()
    assert shown == as_html(snapshot)
    assert "<script" not in shown and "<i>" not in shown
    assert "Chunk 5 (pages 101-125) failed: &lt;script&gt;" in shown
    assert "… and 8 more" in shown
    assert "Chunk 3 has made no progress for 5 min" in shown


def test_a_terminal_shows_the_same() -> None:
    """rich prints a snapshot as a stage, a bar, and what is wrong."""
    said = printed(make_snapshot(work_pct=31.5, failures=(failure("out of memory"),), failures_total=1))
    assert "Processing chunk 1/4" in said and "31.5 %" in said and "25/100 pages" in said
    assert "Chunk 5 (pages 101-125) failed: out of memory" in said


def test_what_looks_like_rich_s_markup_is_text() -> None:
    """An error of a task may hold brackets."""
    assert "[red]x[/nothing]" in printed(make_snapshot(status=JobStatus.FAILED, error="[red]x[/nothing]"))
