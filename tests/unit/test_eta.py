"""When will it be done: small examples, and what holds for any numbers."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_progress_ext.eta import MAX_REMAINING, SCENARIOS, TAIL_CHUNKS, Eta, Pace, RunningChunk, estimate

#: A job that has shown what it is like: 50 chunks of 25 pages at a second per page.
STEADY = reduce(lambda pace, _: pace.observe(25, 25.0), range(50), Pace())
NOW = 1_000_000.0


def eta(**facts: Any) -> Eta:
    """An estimate that must exist, with a steady job and one slot unless the test says otherwise."""
    found = estimate(**{"now": NOW, "pending": [], "running": [], "pace": STEADY, "slots": 1, **facts})
    assert found is not None
    return found


def seconds_left(**facts: Any) -> float:
    """The best guess, from now."""
    return eta(**facts).finish_at - NOW


def width(found: Eta) -> float:
    """How unsure the estimate is, in seconds."""
    return found.latest - found.earliest


# --- The first page ---------------------------------------------------------------------------------------------------


def test_no_estimate_before_the_first_page() -> None:
    """Before any page is done there is nothing to go by, however long chunks have been at work."""
    running = [RunningChunk(pages=25, done=0, elapsed=60.0, quiet=60.0)]
    assert estimate(now=NOW, pending=[25] * 10, running=running, pace=Pace(), slots=4) is None


@pytest.mark.parametrize(
    ("pace", "done"),
    [
        pytest.param(Pace(), 1, id="one page of a running chunk"),
        pytest.param(Pace().observe(1, 1.0), 0, id="one finished chunk of one page"),
    ],
)
def test_an_estimate_from_the_first_page_on(pace: Pace, done: int) -> None:
    """One page is enough, be it in a running or in a finished chunk."""
    running = [RunningChunk(pages=25, done=done, elapsed=2.0, quiet=0.0)]
    assert estimate(now=NOW, pending=[25] * 10, running=running, pace=pace, slots=4) is not None


# --- Examples ---------------------------------------------------------------------------------------------------------


def test_pages_times_pace() -> None:
    """100 pages at a second each on one slot take 100 seconds."""
    assert seconds_left(pending=[100]) == pytest.approx(100, rel=0.05)


def test_pages_are_shared_by_the_slots() -> None:
    """1000 pages in many small chunks, on four slots: a quarter of the time."""
    assert seconds_left(pending=[10] * 100, slots=4) == pytest.approx(250, rel=0.08)


def test_a_big_last_chunk_is_not_shared() -> None:
    """Three idle slots do not make the last chunk any shorter: 20 s of small chunks, then 100 s on one slot."""
    assert seconds_left(pending=[20, 20, 20, 20, 100], slots=4) == pytest.approx(120, rel=0.1)


def test_a_slot_more_than_chunks_at_work_takes_the_next_chunk_now() -> None:
    """One chunk is at work and a slot has just been freed: the pending chunk need not wait."""
    running = [RunningChunk(pages=50, done=10, elapsed=10.0, quiet=0.0)]
    assert seconds_left(pending=[20], running=running, slots=2) == pytest.approx(40, rel=0.1)
    assert seconds_left(pending=[20], running=running, slots=1) == pytest.approx(60, rel=0.1)


def test_the_longest_of_equal_chunks_decides() -> None:
    """Of 20 equal chunks side by side the slowest ends the job, so the estimate is above one chunk's time."""
    assert seconds_left(pending=[25] * 20, slots=20) > 1.2 * seconds_left(pending=[25])


def test_a_running_chunk_keeps_to_its_own_pace() -> None:
    """A chunk that has taken 5 s for each of 40 pages is not expected to do the other 10 at the job's 1 s."""
    slow = RunningChunk(pages=50, done=40, elapsed=200.0, quiet=0.0)
    assert 35 < seconds_left(running=[slow]) < 60


def test_few_pages_of_its_own_tell_little() -> None:
    """One slow page is more likely chance than a slow chunk: the estimate stays near the job's pace."""
    slow = RunningChunk(pages=51, done=1, elapsed=5.0, quiet=0.0)
    assert 50 < seconds_left(running=[slow]) < 100


def test_quiet_time_counts() -> None:
    """Half way through a page, half a page's time has passed."""
    fresh = RunningChunk(pages=11, done=10, elapsed=100.0, quiet=0.0)
    later = RunningChunk(pages=11, done=10, elapsed=105.0, quiet=5.0)
    pace = reduce(lambda pace, _: pace.observe(10, 100.0), range(50), Pace())
    gone_by = seconds_left(running=[fresh], pace=pace) - seconds_left(running=[later], pace=pace)
    assert gone_by == pytest.approx(5.0, abs=1.0)


def test_a_chunk_that_reports_no_pages_is_counted_down() -> None:
    """A task that says nothing until it ends is expected to end when chunks like it did."""
    silent = RunningChunk(pages=25, done=0, elapsed=15.0, quiet=15.0)
    assert seconds_left(running=[silent]) == pytest.approx(10, rel=0.2)


def test_when_the_pages_change_the_running_chunks_are_believed() -> None:
    """After 50 chunks of text at 1 s per page, four chunks of scans at 8 s: more of those are to come."""
    scans = [RunningChunk(pages=25, done=15, elapsed=120.0, quiet=0.0)] * 4
    assert seconds_left(pending=[25] * 40, running=scans, slots=4) == pytest.approx(250 * 8, rel=0.2)


def test_one_chunk_that_hung_does_not_carry_the_estimate_off() -> None:
    """A chunk that took an hour among 20 that took 25 s is an accident, not the pace of the job."""
    usual = reduce(lambda pace, _: pace.observe(25, 25.0), range(20), Pace())
    assert seconds_left(pending=[25] * 40, pace=usual.observe(25, 3600.0), slots=4) < 3 * 250


# --- The interval -----------------------------------------------------------------------------------------------------


def test_an_overdue_chunk_still_ends_in_the_future() -> None:
    """A chunk at ten times its usual time is not about to end: what is left grows with what has been waited."""
    overdue = RunningChunk(pages=25, done=0, elapsed=250.0, quiet=250.0)
    more_overdue = RunningChunk(pages=25, done=0, elapsed=2500.0, quiet=2500.0)
    assert 0 < seconds_left(running=[overdue]) < seconds_left(running=[more_overdue])


def test_a_stuck_chunk_pushes_latest_out() -> None:
    """Two minutes without a page, on the last page, leave more doubt than two seconds."""
    at_work = RunningChunk(pages=25, done=24, elapsed=26.0, quiet=2.0)
    stuck = RunningChunk(pages=25, done=24, elapsed=144.0, quiet=120.0)
    assert eta(running=[stuck]).latest - NOW > 10 * (eta(running=[at_work]).latest - NOW)


def test_an_interval_narrows_as_chunks_finish() -> None:
    """The same work is foretold better after twenty chunks than after one."""
    after_one = eta(pending=[25] * 40, pace=Pace().observe(25, 25.0), slots=4)
    assert width(eta(pending=[25] * 40, slots=4)) < width(after_one)


def test_an_interval_is_wider_where_chunks_differ() -> None:
    """Chunks at 0.5 and 2 s per page in turn foretell less than chunks that all take 1 s."""
    uneven = reduce(lambda pace, turn: pace.observe(25, 12.5 if turn % 2 else 50.0), range(50), Pace())
    assert width(eta(pending=[25] * 8, pace=uneven, slots=4)) > 1.5 * width(eta(pending=[25] * 8, slots=4))


def test_the_merge_comes_after_the_last_chunk() -> None:
    """The merge's time is added; when all chunks are done it is all that is left."""
    assert seconds_left(merge_seconds=30.0) == pytest.approx(30.0)
    assert seconds_left(pending=[100], merge_seconds=30.0) == pytest.approx(130, rel=0.08)


def test_nothing_left_is_done_now() -> None:
    """No chunk, no merge: now, without doubt."""
    assert eta() == Eta(finish_at=NOW, earliest=NOW, latest=NOW)


# --- Pace -------------------------------------------------------------------------------------------------------------


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


# --- For any numbers --------------------------------------------------------------------------------------------------

durations = st.floats(min_value=0.01, max_value=1e5)
page_counts = st.integers(min_value=1, max_value=500)


@st.composite
def running_chunks(draw: st.DrawFn) -> RunningChunk:
    """A chunk as it can be: not more pages done than it has, not quiet for longer than it runs."""
    pages = draw(page_counts)
    elapsed = draw(durations)
    done = draw(st.integers(min_value=0, max_value=pages - 1))
    quiet = elapsed * draw(st.floats(min_value=0, max_value=1)) if done else elapsed
    return RunningChunk(pages=pages, done=done, elapsed=elapsed, quiet=quiet)


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    """The facts about a job with at least one finished chunk."""
    finished = draw(st.lists(st.tuples(page_counts, durations), min_size=1, max_size=8))
    running = draw(st.lists(running_chunks(), max_size=4))
    return {
        "now": NOW,
        "pending": draw(st.lists(page_counts, min_size=1, max_size=20)),
        "running": running,
        "pace": reduce(lambda pace, chunk: pace.observe(*chunk), finished, Pace()),
        "slots": len(running) + draw(st.integers(min_value=0, max_value=3)),
        "merge_seconds": draw(st.floats(min_value=0, max_value=1e4)),
    }


def assert_not_later(sooner: Eta, later: Eta) -> None:
    """Each of the three times, up to what rounding does."""
    for name in ("earliest", "finish_at", "latest"):
        before, after = getattr(sooner, name) - NOW, getattr(later, name) - NOW
        assert before <= after or before == pytest.approx(after, rel=1e-6, abs=1e-6), name


@given(jobs())
def test_the_interval_holds_the_estimate_and_is_never_in_the_past(job: dict[str, Any]) -> None:
    """``now <= earliest <= finish_at <= latest``."""
    found = eta(**job)
    assert NOW <= found.earliest <= found.finish_at <= found.latest <= NOW + MAX_REMAINING


@given(jobs(), st.data())
def test_more_pages_never_give_an_earlier_finish(job: dict[str, Any], data: st.DataObject) -> None:
    """Whichever pending chunk gets longer."""
    grown = list(job["pending"])
    grown[data.draw(st.integers(0, len(grown) - 1))] += data.draw(page_counts)
    assert_not_later(eta(**job), eta(**{**job, "pending": grown}))


@given(jobs(), page_counts)
def test_a_further_chunk_never_gives_an_earlier_finish(job: dict[str, Any], pages: int) -> None:
    """Nor does one chunk more at the end of the queue."""
    assert_not_later(eta(**job), eta(**{**job, "pending": [*job["pending"], pages]}))


@given(jobs())
def test_a_further_slot_never_gives_a_later_finish(job: dict[str, Any]) -> None:
    """A worker that joins helps, or does nothing."""
    slots = max(job["slots"], len(job["running"]), 1)
    assert_not_later(eta(**{**job, "slots": slots + 1}), eta(**{**job, "slots": slots}))


@given(jobs(), st.floats(min_value=0, max_value=1e4))
def test_a_longer_merge_never_gives_an_earlier_finish(job: dict[str, Any], more: float) -> None:
    """What comes after the chunks only adds."""
    assert_not_later(eta(**job), eta(**{**job, "merge_seconds": job["merge_seconds"] + more}))


@given(jobs(), st.floats(min_value=0.5, max_value=20))
def test_a_job_that_is_slower_in_everything_takes_longer_in_proportion(job: dict[str, Any], factor: float) -> None:
    """The estimate knows no unit of time: every duration times a factor is the remaining time times that factor."""
    pace, stretch = job["pace"], math.log(factor)
    slower = {
        **job,
        "running": [replace(c, elapsed=c.elapsed * factor, quiet=c.quiet * factor) for c in job["running"]],
        "pace": replace(
            pace,
            seconds=pace.seconds * factor,
            sum_log=pace.sum_log + pace.chunks * stretch,
            sum_log_sq=pace.sum_log_sq + 2 * stretch * pace.sum_log + pace.chunks * stretch**2,
        ),
        "merge_seconds": job["merge_seconds"] * factor,
    }
    plain, scaled = eta(**job), eta(**slower)
    for name in ("earliest", "finish_at", "latest"):
        expected = min((getattr(plain, name) - NOW) * factor, MAX_REMAINING)
        assert getattr(scaled, name) - NOW == pytest.approx(expected, rel=1e-4, abs=1e-4), name


@given(jobs())
def test_the_same_facts_give_the_same_answer(job: dict[str, Any]) -> None:
    """There is no randomness in it."""
    assert eta(**job) == eta(**job)


any_count = st.integers() | st.sampled_from([0, 10**400, -(10**400)])
any_float = st.floats() | st.sampled_from([0.0, 1e308, math.inf, -math.inf, math.nan])


@given(
    pending=st.lists(any_count, max_size=5),
    running=st.lists(
        st.builds(RunningChunk, pages=any_count, done=any_count, elapsed=any_float, quiet=any_float), max_size=4
    ),
    pace=st.builds(Pace, chunks=any_count, pages=any_count, seconds=any_float, sum_log=any_float, sum_log_sq=any_float),
    slots=any_count,
    merge_seconds=any_float,
)
def test_no_numbers_make_it_raise_or_answer_nonsense(**facts: Any) -> None:
    """Clocks jump and rows are edited by hand: the answer is still three finite times in order, or None."""
    found = estimate(now=NOW, **facts)
    if found is None:
        assert facts["pace"].chunks <= 0
        assert all(chunk.done <= 0 for chunk in facts["running"])
    else:
        assert NOW <= found.earliest <= found.finish_at <= found.latest <= NOW + MAX_REMAINING


# --- Large jobs -------------------------------------------------------------------------------------------------------


def test_a_job_too_large_to_be_played_through_is_estimated_alike() -> None:
    """Where the first chunks begin to be scheduled only once, the estimate makes no jump."""
    chunks = TAIL_CHUNKS
    below, above = (seconds_left(pending=[25] * n, slots=8) for n in (chunks, chunks + 1))
    assert below <= above <= below * 1.02


def test_ten_thousand_chunks_are_no_ten_thousand_times_the_work() -> None:
    """A long queue is scheduled once, not in each scenario, so that a tick can afford an estimate per job."""

    def best_of_five(chunks: int) -> float:
        taken = []
        for _ in range(5):
            before = time.process_time()
            eta(pending=[25] * chunks, slots=16)
            taken.append(time.process_time() - before)
        return min(taken)

    assert best_of_five(10_000) < 10_000 / TAIL_CHUNKS * best_of_five(TAIL_CHUNKS) / 4


def test_every_scenario_is_equally_likely() -> None:
    """Merging alone draws each scenario once: the median is the plain guess, the interval 80 % of a lognormal."""
    found = eta(merge_seconds=100.0)
    assert SCENARIOS % 2 == 1
    assert math.log((found.latest - NOW) / 100) == pytest.approx(0.4 * 1.2816, rel=0.02)
    assert math.log((found.earliest - NOW) / 100) == pytest.approx(-0.4 * 1.2816, rel=0.02)
