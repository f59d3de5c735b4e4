"""What was just shown holds back what is shown next, for a few seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_progress_ext.eta import Eta
from celery_progress_ext.steady import Shown, steady


def eta(finish_at: float, *, early: float = 5.0, late: float = 10.0) -> Eta:
    return Eta(finish_at=finish_at, earliest=finish_at - early, latest=finish_at + late)


def test_what_was_never_shown_is_shown_as_it_is() -> None:
    """The first estimate, or the first after nothing moved."""
    assert steady(eta(100.0), None, now=50.0) == eta(100.0)


@pytest.mark.parametrize(("found", "expected"), [(160.0, 112.0), (60.0, 95.0), (101.0, 101.0), (105.0, 105.0)])
def test_a_second_moves_a_tenth_of_what_remains(found: float, expected: float) -> None:
    """Of the longer of both, in either direction; the interval holds what is shown and what was found."""
    shown = steady(eta(found), Shown(100.0, 49.0), now=50.0)
    assert shown.finish_at == pytest.approx(expected)
    assert shown.earliest <= min(found, shown.finish_at)
    assert shown.latest >= max(found, shown.finish_at)


def test_after_some_seconds_nothing_is_held_back() -> None:
    """Nor where the last frame was long ago."""
    assert steady(eta(160.0), Shown(100.0, 38.0), now=50.0) == eta(160.0)
    before, now = Shown(100.0, 50.0), 50.0
    for _ in range(12):
        now += 1.0
        before = Shown(steady(eta(160.0), before, now=now).finish_at, now)
    assert before.finish_at == 160.0


def test_nothing_stays_done_any_moment() -> None:
    """What was about to end and is not moves faster than the clock."""
    before, now, left = Shown(50.0, 50.0), 50.0, []
    for _ in range(8):
        now += 0.4
        before = Shown(steady(eta(now + 10.0), before, now=now).finish_at, now)
        left.append(before.finish_at - now)
    assert left == sorted(left)
    assert left[-1] > 6.0


def test_a_clock_that_stepped_back_holds_nothing() -> None:
    """The database's clock may."""
    assert steady(eta(160.0), Shown(100.0, 51.0), now=50.0) == eta(160.0)


SECONDS = st.floats(0, 1e9)


@given(now=SECONDS, quiet=SECONDS, shown=SECONDS, rest=SECONDS, early=SECONDS, late=SECONDS)
def test_it_lies_in_its_interval(
    now: float, quiet: float, shown: float, rest: float, early: float, late: float
) -> None:
    """And not in the past, and between what was shown and what was found."""
    found = Eta(finish_at=now + rest, earliest=now + rest - min(early, rest), latest=now + rest + late)
    before = Shown(shown, now - quiet)
    seen = steady(found, before, now=now)
    assert now <= seen.finish_at
    assert seen.earliest <= seen.finish_at <= seen.latest
    assert seen.earliest <= found.earliest
    assert seen.latest >= found.latest
    assert seen.finish_at <= max(found.finish_at, shown, now)
