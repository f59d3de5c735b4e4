"""What is believed of the pace of chunks, from those that were seen."""

from __future__ import annotations

import math

import pytest

from celery_progress_ext.pace import Experience, Pace, Timing, believe, sight, start_up_of


def chunk(
    index: int, page_seconds: float, *, pages: int = 20, start_up: float = 0.0, cost: float | None = None
) -> Timing:
    """A finished chunk that reported each page."""
    return Timing(
        index=index,
        pages=pages,
        cost=float(pages) if cost is None else cost,
        done=pages,
        elapsed=start_up + pages * page_seconds,
        first=start_up + page_seconds,
    )


def test_a_start_up_is_not_taken_for_pace() -> None:
    """A second a page after 25 s in which models were loaded is a second a page."""
    cold = chunk(0, 1.0, start_up=25.0)
    assert start_up_of(cold) == pytest.approx(25.0)
    seen = sight(cold, start_up=0.0)
    assert seen is not None
    assert math.exp(seen.log_pace) == pytest.approx(1.0)


def test_a_chunk_that_goes_on_with_stored_pages_is_timed_from_there() -> None:
    """Its first report says 15 of 20: those took no time of this attempt."""
    resumed = Timing(index=0, pages=20, cost=20, done=20, elapsed=5.5, first=0.5, first_done=15)
    seen = sight(resumed, start_up=0.0)
    assert seen is not None
    assert math.exp(seen.log_pace) == pytest.approx(1.0)


def test_costs_explain_what_pages_do_not() -> None:
    """Chunks of the same pages that take 10 and 40 s are no surprise where they were expected to."""
    timings = [chunk(index, seconds, cost=20 * seconds) for index, seconds in enumerate([0.5, 2.0] * 10)]
    foretold, not_foretold = believe(timings), believe([chunk(t.index, t.elapsed / t.pages) for t in timings])
    assert foretold is not None
    assert not_foretold is not None
    assert math.exp(foretold.mean) == pytest.approx(1.0, rel=0.02)
    assert foretold.scale < 0.5 * not_foretold.scale


def test_the_last_chunks_say_more_of_the_next_than_the_first() -> None:
    """Neighbours resemble each other: after ten chunks at 1 s and five at 2 s, the next is nearer to 2."""
    belief = believe([chunk(index, 1.0 if index < 10 else 2.0) for index in range(15)])
    assert belief is not None
    assert 1.6 < math.exp(belief.mean) <= 2.05


def test_one_accident_moves_little() -> None:
    """A chunk that hung for an hour changes the pace by less than a half, and the next usual one takes that back."""
    usual = [chunk(index, 1.0) for index in range(20)]
    after, recovered = believe([*usual, chunk(20, 180.0)]), believe([*usual, chunk(20, 180.0), chunk(21, 1.0)])
    assert after is not None
    assert recovered is not None
    assert 1.0 <= math.exp(after.mean) < 1.6
    assert math.exp(recovered.mean) == pytest.approx(1.0, rel=0.15)


def test_pages_that_nobody_has_heard_of_yet_are_no_slow_page() -> None:
    """Reports are written once a second: 3 pages known after 3.9 s may well be 4 by now."""
    at_work = Timing(index=0, pages=20, cost=20, done=3, elapsed=3.4, quiet=0.9, first=0.5, unwritten=1.0)
    seen = sight(at_work, start_up=0.0)
    assert seen is not None
    assert math.exp(seen.log_pace) == pytest.approx(1.0)


def test_start_ups_of_later_chunks_are_those_to_come() -> None:
    """The first two, in new processes, took 20 s to begin, the others one."""
    belief = believe([chunk(index, 1.0, start_up=20.0 if index < 2 else 1.0) for index in range(6)], slots=2)
    assert belief is not None
    assert belief.warm == pytest.approx(1.0)
    assert belief.cold == pytest.approx(20.0)


def test_experience_stands_in_until_something_is_seen() -> None:
    """Nothing is believed without either."""
    assert believe([]) is None
    belief = believe([], Experience(pace=math.log(2.0), pace_spread=0.3, warm=0.5, cold=4.0))
    assert belief is not None
    assert math.exp(belief.mean) == pytest.approx(2.0)
    assert (belief.warm, belief.cold) == (0.5, 4.0)


def test_pace_is_kept_by_additions_only() -> None:
    """Each field of a pace is a sum of what single chunks add, so that a database can keep it in one UPDATE."""
    added = [Pace.of(25, 25.0), Pace.of(10, 30.0)]
    observed = Pace().observe(25, 25.0).observe(10, 30.0)
    for name in ("chunks", "pages", "seconds", "sum_log", "sum_log_sq"):
        assert getattr(observed, name) == pytest.approx(sum(getattr(one, name) for one in added))
    assert observed == Pace(chunks=2, pages=35, seconds=55.0, sum_log=math.log(3), sum_log_sq=math.log(3) ** 2)


@pytest.mark.parametrize(("pages", "seconds"), [(0, 0.0), (1, 0.0), (-5, -5.0), (25, math.inf), (25, math.nan)])
def test_a_chunk_without_pages_or_time_leaves_the_sums_finite(pages: int, seconds: float) -> None:
    """A chunk of no time at all has no logarithm; it counts as a very fast one."""
    pace = Pace.of(pages, seconds)
    assert all(math.isfinite(value) for value in (pace.seconds, pace.sum_log, pace.sum_log_sq))
