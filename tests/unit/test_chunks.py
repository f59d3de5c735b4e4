"""Chunks: counts, percent, names of failures, and what a report may do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_progress_ext import ChunkProgress, ChunkStatus, format_chunk_failure_message
from celery_progress_ext.chunks import CHUNK_TRANSITIONS, Chunk, percent


@pytest.mark.parametrize(
    ("completed", "total", "pct"), [(5, 17, 29), (10, 17, 58), (17, 17, 100), (0, 17, 0), (0, 0, 0), (29, 100, 29)]
)
def test_percent_is_the_whole_part_of_completed_over_total(completed: int, total: int, pct: int) -> None:
    """`int(completed / total * 100)`; nothing to do is 0."""
    assert percent(completed, total) == pct


@given(st.integers(1, 10**6), st.data())
def test_percent_says_100_only_when_all_is_done(total: int, data: st.DataObject) -> None:
    """A bar that rounds up would say done too early."""
    completed = data.draw(st.integers(0, total))
    assert (percent(completed, total) == 100) == (completed == total)


def test_a_failed_chunk_is_not_done() -> None:
    """10 completed and 1 failed of 17 is 58 percent."""
    progress = ChunkProgress(total=17, pending=5, processing=1, completed=10, failed=1)
    assert progress.progress_pct == 58
    assert not progress.settled


def test_the_merge_may_begin_when_every_chunk_is_terminal() -> None:
    """Failed chunks need not be waited for, running ones must."""
    assert ChunkProgress(total=2, pending=0, processing=0, completed=1, failed=1).settled
    assert not ChunkProgress(total=2, pending=0, processing=1, completed=1, failed=0).settled


def test_a_failure_is_named_with_its_pages() -> None:
    """Indexes count from 0, people from 1."""
    message = format_chunk_failure_message(
        chunk_index=4, page_start=101, page_end=125, error_message="Document AI timeout"
    )
    assert message == "Chunk 5 (pages 101-125) failed: Document AI timeout"


def test_other_work_than_pages_is_named_by_its_unit() -> None:
    """A table's rows are not pages."""
    assert format_chunk_failure_message(0, 1, 500, "no", unit="rows") == "Chunk 1 (rows 1-500) failed: no"


def test_completed_is_final() -> None:
    """No report takes a finished chunk back; a late success still wins over a failure."""
    assert all(ChunkStatus.COMPLETED not in sources for sources in CHUNK_TRANSITIONS.values())
    assert ChunkStatus.FAILED in CHUNK_TRANSITIONS[ChunkStatus.COMPLETED]


def test_every_status_has_a_row_in_the_table() -> None:
    """A new status has to say where it may come from."""
    assert set(CHUNK_TRANSITIONS) == set(ChunkStatus)


def test_a_chunk_counts_its_pages_inclusively() -> None:
    """Pages 101-125 are 25."""
    assert Chunk(index=4, page_start=101, page_end=125).pages == 25
