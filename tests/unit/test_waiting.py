"""Waiting is told apart from working, and the bar of work never goes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_progress_ext.waiting import SILENCE_SECONDS, Standing, waiting_of, work_pct

WORKING = Standing(
    now=1000.0,
    created_at=0.0,
    changed_at=900.0,
    started=True,
    at_work=2,
    silent=0,
    settled=False,
    merging=False,
    body_alive=False,
)


@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (WORKING, None),
        (replace(WORKING, silent=1), None),
        (replace(WORKING, merging=True, at_work=0, body_alive=True), None),
        (replace(WORKING, at_work=0, started=False), "No worker has started it yet."),
        (replace(WORKING, at_work=0), "No worker is at work on it."),
        (replace(WORKING, at_work=0, silent=2), "No worker gives a sign of life"),
        (replace(WORKING, at_work=0, settled=True), "The merge waits"),
        (replace(WORKING, at_work=0, settled=True, merging=True), "The merge's worker gives no sign of life"),
    ],
)
def test_each_reason_has_its_sentence(standing: Standing, reason: str | None) -> None:
    """And what is at work has none."""
    waiting = waiting_of(standing)
    assert (waiting is None) == (reason is None)
    assert waiting is None or waiting.reason.startswith(str(reason))


def test_the_moment_between_two_chunks_is_no_waiting() -> None:
    """The next start is recorded a moment later."""
    idle = replace(WORKING, at_work=0, changed_at=1000.0 - SILENCE_SECONDS / 2)
    assert waiting_of(idle) is None
    waiting = waiting_of(replace(idle, now=idle.now + SILENCE_SECONDS))
    assert waiting is not None
    assert waiting.since == idle.changed_at


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.integers(0, 50)), max_size=40), st.integers(1, 50))
def test_the_bar_of_work_never_goes_back(steps: list[tuple[bool, int, int]], total: int) -> None:
    """Whatever grows: pages, the merge's pages, the stage. 100 is for the end alone."""
    merging, done, merged, shown = False, 0, 0, 0.0
    for starts_merge, pages, of_merge in steps:
        if not merging:
            done = min(total, max(done, pages))
        merging = merging or starts_merge
        merged = max(merged, of_merge) if merging else 0
        percent = work_pct(ended_well=False, merging=merging, done=done / total, merged=merged / max(1, done))
        assert shown <= percent < 100
        shown = percent
    assert work_pct(ended_well=True, merging=True, done=done / total, merged=0) == 100
