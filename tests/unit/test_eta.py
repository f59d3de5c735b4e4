"""When will it be done: small examples, and what holds for any numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from celery_progress_ext.eta import MAX_REMAINING, SCENARIOS, TAIL_CHUNKS, Eta, Facts, Merge, estimate
from celery_progress_ext.pace import Experience, Timing

NOW = 1_000_000.0


def finished(pages: int, seconds: float, index: int = 0) -> Timing:
    """A chunk that is done, of a task that reports nothing."""
    return Timing(index=index, pages=pages, cost=pages, done=pages, elapsed=seconds)


def running(pages: int, done: int, elapsed: float, quiet: float, index: int = 100) -> Timing:
    """A chunk at work, whose first page took as long as the others."""
    first = (elapsed - quiet) / done if done else None
    return Timing(index=index, pages=pages, cost=pages, done=done, elapsed=elapsed, quiet=quiet, first=first)


#: A job that has shown what it is like: 50 chunks of 25 pages at a second per page.
STEADY: Sequence[Timing] = [finished(25, 25.0, index) for index in range(50)]


def eta(**facts: Any) -> Eta:
    """An estimate that must exist, with a steady job and one slot unless the test says otherwise."""
    found = estimate(Facts(**{"now": NOW, "finished": STEADY, "merge": Merge(), **facts}))
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
    assert estimate(Facts(now=NOW, pending=[25] * 10, running=[running(25, 0, 60.0, 60.0)], slots=4)) is None


@pytest.mark.parametrize(
    ("done", "ended"),
    [
        pytest.param(1, [], id="one page of a running chunk"),
        pytest.param(0, [finished(1, 1.0)], id="one finished chunk of one page"),
    ],
)
def test_an_estimate_from_the_first_page_on(done: int, ended: list[Timing]) -> None:
    """One page is enough, be it in a running or in a finished chunk."""
    at_work = [running(25, done, 2.0, 0.0)]
    assert estimate(Facts(now=NOW, pending=[25] * 10, running=at_work, finished=ended, slots=4)) is not None


def test_past_jobs_are_enough_before_the_first_page() -> None:
    """A kind with history is estimated at once, and its start-up is counted."""
    experience = Experience(pace=0.0, pace_spread=0.3, warm=0.0, cold=10.0)
    facts = {"finished": [], "running": [running(25, 0, 1.0, 1.0, index=0)], "experience": experience}
    assert seconds_left(**facts) == pytest.approx(10 + 25 - 1, rel=0.2)


def test_what_is_seen_outweighs_what_past_jobs_say() -> None:
    """Ten chunks of this job at 4 s a page say more than other jobs at 1 s."""
    slow = [finished(25, 100.0, index) for index in range(10)]
    experience = Experience(pace=0.0, pace_spread=0.3)
    assert seconds_left(finished=slow, pending=[25] * 10, experience=experience) == pytest.approx(1000, rel=0.15)


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
    at_work = [running(50, 10, 10.0, 0.0)]
    assert seconds_left(pending=[20], running=at_work, slots=2) == pytest.approx(40, rel=0.1)
    assert seconds_left(pending=[20], running=at_work, slots=1) == pytest.approx(60, rel=0.1)


def test_the_work_of_others_goes_first() -> None:
    """60 s of one slot's work, on two slots, before 40 chunks; nothing waits where nothing is pending."""
    alone = seconds_left(pending=[25] * 40, slots=2)
    assert seconds_left(pending=[25] * 40, slots=2, ahead=60.0) == pytest.approx(alone + 30, abs=1)
    at_work = running(50, 10, 10.0, 0.0)
    assert seconds_left(running=[at_work], ahead=60.0) == seconds_left(running=[at_work])


def test_the_longest_of_equal_chunks_decides() -> None:
    """Of 20 equal chunks side by side the slowest ends the job, so the estimate is above one chunk's time."""
    assert seconds_left(pending=[25] * 20, slots=20) > 1.1 * seconds_left(pending=[25])


def test_a_running_chunk_keeps_to_its_own_pace() -> None:
    """A chunk that has taken 5 s for each of 40 pages is not expected to do the other 10 at the job's 1 s."""
    slow = running(50, 40, 200.0, 0.0)
    assert 35 < seconds_left(running=[slow]) < 60


def test_few_pages_of_its_own_tell_little() -> None:
    """One slow page is more likely chance than a slow chunk: the estimate stays near the job's pace."""
    slow = running(51, 1, 5.0, 0.0)
    assert 50 < seconds_left(running=[slow]) < 100


def test_quiet_time_counts() -> None:
    """Half way through a page, half a page's time has passed."""
    fresh = running(11, 10, 100.0, 0.0)
    later = running(11, 10, 105.0, 5.0)
    ended = [finished(10, 100.0, index) for index in range(50)]
    gone_by = seconds_left(running=[fresh], finished=ended) - seconds_left(running=[later], finished=ended)
    assert gone_by == pytest.approx(5.0, abs=1.0)


def test_a_chunk_that_reports_no_pages_is_counted_down() -> None:
    """A task that says nothing until it ends is expected to end when chunks like it did."""
    silent = running(25, 0, 15.0, 15.0)
    assert seconds_left(running=[silent]) == pytest.approx(10, rel=0.2)


def test_when_the_pages_change_the_running_chunks_are_believed() -> None:
    """After 50 chunks of text at 1 s per page, four chunks of scans at 8 s: more of those are to come."""
    scans = [running(25, 15, 120.0, 0.0)] * 4
    assert seconds_left(pending=[25] * 40, running=scans, slots=4) == pytest.approx(250 * 8, rel=0.2)


def test_one_chunk_that_hung_does_not_carry_the_estimate_off() -> None:
    """A chunk that took an hour among 20 that took 25 s is an accident, not the pace of the job."""
    ended = [finished(25, 25.0, index) for index in range(20)]
    assert seconds_left(pending=[25] * 40, finished=[*ended, finished(25, 3600.0, 20)], slots=4) < 3 * 250


# --- The interval -----------------------------------------------------------------------------------------------------


def test_an_overdue_chunk_still_ends_in_the_future() -> None:
    """A chunk at ten times its usual time is not about to end: what is left grows with what has been waited."""
    overdue = running(25, 0, 250.0, 250.0)
    more_overdue = running(25, 0, 2500.0, 2500.0)
    assert 0 < seconds_left(running=[overdue]) < seconds_left(running=[more_overdue])


def test_a_stuck_chunk_pushes_latest_out() -> None:
    """Two minutes without a page, on the last page, leave more doubt than two seconds."""
    at_work = running(25, 24, 26.0, 2.0)
    stuck = running(25, 24, 144.0, 120.0)
    assert eta(running=[stuck]).latest - NOW > 10 * (eta(running=[at_work]).latest - NOW)


def test_an_interval_narrows_as_chunks_finish() -> None:
    """The same work is foretold better after twenty chunks than after one."""
    after_one = eta(pending=[25] * 40, finished=STEADY[:1], slots=4)
    assert width(eta(pending=[25] * 40, slots=4)) < width(after_one)


def test_an_interval_is_wider_where_chunks_differ() -> None:
    """Chunks at 0.5 and 2 s per page in turn foretell less than chunks that all take 1 s."""
    uneven = [finished(25, 12.5 if index % 2 else 50.0, index) for index in range(50)]
    assert width(eta(pending=[25] * 8, finished=uneven, slots=4)) > 1.5 * width(eta(pending=[25] * 8, slots=4))


def test_the_merge_comes_after_the_last_chunk() -> None:
    """The merge's time is added; when all chunks are done it is all that is left."""
    assert seconds_left(merge=Merge(seconds=30.0)) == pytest.approx(30.0)
    assert seconds_left(pending=[100], merge=Merge(seconds=30.0)) == pytest.approx(130, rel=0.08)


def test_a_merge_needs_no_chunk_to_be_estimated() -> None:
    """Once it has begun, the chunks are not looked at."""
    assert seconds_left(finished=[], merge=Merge(seconds=30.0, elapsed=10.0)) == pytest.approx(20.0, rel=0.1)


def test_nothing_left_is_done_now() -> None:
    """No chunk, no merge: now, without doubt."""
    assert eta() == Eta(finish_at=NOW, earliest=NOW, latest=NOW)


# --- For any numbers --------------------------------------------------------------------------------------------------

durations = st.floats(min_value=0.01, max_value=1e5)
page_counts = st.integers(min_value=1, max_value=500)


@st.composite
def running_chunks(draw: st.DrawFn) -> Timing:
    """A chunk as it can be: not more pages done than it has, not quiet for longer than it runs."""
    pages = draw(page_counts)
    elapsed = draw(durations)
    done = draw(st.integers(min_value=0, max_value=pages - 1))
    quiet = elapsed * draw(st.floats(min_value=0, max_value=1)) if done else elapsed
    first = (elapsed - quiet) * draw(st.floats(min_value=0, max_value=1)) if done and draw(st.booleans()) else None
    return Timing(index=100, pages=pages, cost=pages, done=done, elapsed=elapsed, quiet=quiet, first=first)


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    """The facts about a job with at least one finished chunk."""
    ended = draw(st.lists(st.tuples(page_counts, durations), min_size=1, max_size=8))
    at_work = draw(st.lists(running_chunks(), max_size=4))
    return {
        "now": NOW,
        "pending": draw(st.lists(page_counts, min_size=1, max_size=20)),
        "running": at_work,
        "finished": [finished(pages, seconds, index) for index, (pages, seconds) in enumerate(ended)],
        "slots": len(at_work) + draw(st.integers(min_value=0, max_value=3)),
        "ahead": draw(st.floats(min_value=0, max_value=1e4)),
        "merge": Merge(seconds=draw(st.floats(min_value=0, max_value=1e4))),
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
    assert_not_later(eta(**job), eta(**{**job, "merge": replace(job["merge"], seconds=job["merge"].seconds + more)}))


@given(jobs(), st.floats(min_value=0.5, max_value=20))
def test_a_job_that_is_slower_in_everything_takes_longer_in_proportion(job: dict[str, Any], factor: float) -> None:
    """The estimate knows no unit of time: every duration times a factor is the remaining time times that factor."""
    # Pages that took no time have the least pace that there is, which does not scale.
    assume(
        all(
            timing.first is None or timing.done <= timing.first_done or timing.elapsed - timing.quiet > timing.first
            for timing in [*job["running"], *job["finished"]]
        )
    )

    def slower(timing: Timing) -> Timing:
        first = None if timing.first is None else timing.first * factor
        return replace(timing, elapsed=timing.elapsed * factor, quiet=timing.quiet * factor, first=first)

    slow = {
        **job,
        "running": [slower(timing) for timing in job["running"]],
        "finished": [slower(timing) for timing in job["finished"]],
        "ahead": job["ahead"] * factor,
        "merge": replace(job["merge"], seconds=job["merge"].seconds * factor),
    }
    plain, scaled = eta(**job), eta(**slow)
    for name in ("earliest", "finish_at", "latest"):
        expected = min((getattr(plain, name) - NOW) * factor, MAX_REMAINING)
        assert getattr(scaled, name) - NOW == pytest.approx(expected, rel=1e-4, abs=1e-4), name


@given(jobs())
def test_the_same_facts_give_the_same_answer(job: dict[str, Any]) -> None:
    """There is no randomness in it."""
    assert eta(**job) == eta(**job)


any_count = st.integers() | st.sampled_from([0, 10**400, -(10**400)])
any_float = st.floats() | st.sampled_from([0.0, 1e308, math.inf, -math.inf, math.nan])


any_timing = st.builds(
    Timing,
    index=any_count,
    pages=any_count,
    cost=any_float,
    done=any_count,
    elapsed=any_float,
    quiet=any_float,
    first=st.none() | any_float,
    first_done=any_count,
    unwritten=any_float,
)


@given(
    pending=st.lists(any_float, max_size=5),
    running=st.lists(any_timing, max_size=4),
    finished=st.lists(any_timing, max_size=4),
    slots=any_count,
    ahead=any_float,
    merge=st.builds(Merge, seconds=any_float, spread=any_float, elapsed=any_float),
)
def test_no_numbers_make_it_raise_or_answer_nonsense(**facts: Any) -> None:
    """Clocks jump and rows are edited by hand: the answer is still three finite times in order, or None."""
    found = estimate(Facts(now=NOW, **facts))
    if found is None:
        assert all(timing.done <= 0 for timing in [*facts["running"], *facts["finished"]])
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
    found = eta(merge=Merge(seconds=100.0))
    assert SCENARIOS % 2 == 1
    assert math.log((found.latest - NOW) / 100) == pytest.approx(0.4 * 1.2816, rel=0.02)
    assert math.log((found.earliest - NOW) / 100) == pytest.approx(-0.4 * 1.2816, rel=0.02)
