"""When will it be done, from the timings of a job's chunks.

What is not known is played through in ``SCENARIOS`` equally likely futures: in each, the pace of the chunks to come is
drawn from what is believed of it (``pace``) by a fixed Latin hypercube, and the pending chunks are list-scheduled, in
dispatch order, onto the slot that is free first. The median finish is the estimate, the 10 % and 90 % quantiles are its
interval. ``calibration`` then corrects both by what estimates of past jobs turned out to be worth.

There is no randomness: the same facts give the same answer. And list scheduling of independent chunks in a fixed
order has no anomalies, so that a longer chunk never gives an earlier finish, and a further slot never a later one.

``python -m bench.eta`` measures the estimate on recorded and on simulated jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from math import exp, log, pi, sqrt
from statistics import NormalDist, median

from celery_progress_ext.pace import (
    CHUNK_SPREAD,
    MAX_SECONDS,
    PAGE_SPREAD,
    SHARED_SPREAD,
    SHARED_STEP,
    Belief,
    Experience,
    Timing,
    believe,
    sight,
    within,
)

#: Futures played through. A prime that is 2 mod 3, for which cubing permutes the residues (see ``_COLUMNS``).
SCENARIOS = 41

#: What no timing shows: the chunks to come are other pages. Added to the doubt about the level of the pace, in full
#: before the first chunk, and less the more were seen.
UNSEEN_SPREAD, SEEN_CHUNKS = 0.25, 10.0
#: The least doubt about the level: workers are lost, machines are shared.
LEAST_DOUBT = 0.05
#: By how much ln of the time of a chunk's pages differs from those that are done of it.
WITHIN_SPREAD = 0.2

#: Of more pending chunks than this, only the last are scheduled in every scenario.
TAIL_CHUNKS = 200

#: A hundred years: an estimate beyond says nothing, and would soon be no valid date. Seconds.
MAX_REMAINING = MAX_SECONDS
_MAX_SLOTS = 1_000


@dataclass(frozen=True, kw_only=True)
class Eta:
    """When the job will be done, in seconds since the epoch: the best guess and an 80 % interval around it."""

    finish_at: float
    earliest: float
    latest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Merge:
    """What the merge is expected to take.

    :ivar seconds: from its start to its end, and ``spread`` of the logarithm of that.
    :ivar elapsed: seconds that it has run.
    """

    seconds: float = 0.0
    spread: float = 0.4
    elapsed: float = 0.0

    def remaining(self) -> list[float]:
        """In each scenario, the seconds until it ends, given that it has run for so long and goes on."""
        seconds = within(self.seconds, 0.0, MAX_REMAINING)
        spread, elapsed = within(self.spread, 1e-3, 3.0), within(self.elapsed, 0.0, MAX_REMAINING)
        if not seconds:
            return [0.0] * SCENARIOS
        over = _STANDARD.cdf(log(elapsed / seconds) / spread) if elapsed else 0.0
        drawn = (over + (1 - over) * _UNIFORM[rank] for rank in _column(-1))
        # One that has run for much longer than any may as well take as long again.
        return [
            max(seconds * exp(spread * _STANDARD.inv_cdf(min(share, _NEARLY_ALL))) - elapsed, 0.1 * elapsed)
            for share in drawn
        ]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a job at one moment.

    :ivar now: seconds since the epoch, on the same clock as the timings.
    :ivar pending: the cost of each chunk that has not started, in dispatch order.
    :ivar running: the chunks at work.
    :ivar finished: the finished ones, or the last of them.
    :ivar slots: how many chunks are worked on at once; more than ``running`` where a slot has just become free.
    :ivar ahead: seconds of work, of one slot, that other jobs' chunks take before the pending ones.
    :ivar behind: the same of what stands in the queue between the last chunk and the merge.
    :ivar merge: what comes after the chunks.
    :ivar experience: what past jobs of the kind say.
    """

    now: float
    pending: Sequence[float] = ()
    running: Sequence[Timing] = ()
    finished: Sequence[Timing] = ()
    slots: int = 1
    ahead: float = 0.0
    behind: float = 0.0
    merge: Merge = Merge()
    experience: Experience | None = None


def estimate(facts: Facts) -> Eta | None:
    """When the job will be done; None where nothing is known of its pace: not one page, and no past job.

    :returns: ``now <= earliest <= finish_at <= latest``, all finite. Never raises for any numbers.
    """
    running = [timing.sane() for timing in facts.running]
    timings = [*(timing.sane() for timing in facts.finished), *running]
    slots = min(max(1, facts.slots), _MAX_SLOTS)
    pending = [within(cost, 0.0, 1e12) for cost in facts.pending]
    ahead = within(facts.ahead, 0.0, MAX_SECONDS)
    belief = believe(timings, facts.experience, slots=max(1, len(running)))
    if not (pending or running):
        chunk_ends = [0.0] * SCENARIOS
    elif belief is None:
        return None
    else:
        # Not by what is pending, so that a longer chunk never makes the finish earlier.
        unseen = 1 / (1 + len(timings) / SEEN_CHUNKS)
        chunk_ends = _play(belief, pending, running, slots, ahead, unseen)
    behind = within(facts.behind, 0.0, MAX_SECONDS) / slots
    finishes = sorted(end + behind + merge for end, merge in zip(chunk_ends, facts.merge.remaining(), strict=True))
    earliest, finish_at, latest = (
        facts.now + within(_quantile(finishes, q), 0.0, MAX_REMAINING) for q in (0.1, 0.5, 0.9)
    )
    return Eta(finish_at=finish_at, earliest=earliest, latest=latest)


class _Levels:
    """Level and shared deviation in each scenario, drawn from the belief together.

    :param unseen: how much of the doubt about pages that were not seen is left, 0 to 1.
    """

    def __init__(self, belief: Belief, unseen: float) -> None:
        doubt = sqrt(belief.level_variance + (belief.scale * UNSEEN_SPREAD) ** 2 * unseen + LEAST_DOUBT**2)
        along = belief.covariance / doubt
        apart = sqrt(max(0.0, belief.shared_variance - along**2))
        self.doubt = doubt
        self.level = [belief.level + doubt * normal for normal in _NORMAL]
        self.shared = [
            belief.shared + along * normal + apart * _NORMAL[rank]
            for normal, rank in zip(_NORMAL, _column(-2), strict=True)
        ]


def _play(
    belief: Belief, pending: Sequence[float], running: Sequence[Timing], slots: int, ahead: float, unseen: float
) -> list[float]:
    """In each scenario, the seconds from now until the last chunk ends."""
    levels = _Levels(belief, unseen)
    busy = [_remaining(timing, belief, levels, number) for number, timing in enumerate(running)]
    # More slots than chunks make no difference, but to the work of others.
    idle = max(1, slots if ahead else min(slots, len(running) + len(pending))) - len(running)
    free_in = [[*(ends[scenario] for ends in busy), *[0.0] * idle] for scenario in range(SCENARIOS)]
    if ahead and pending:
        free_in = [_poured(free, ahead) for free in free_in]
    head, tail = pending[:-TAIL_CHUNKS], pending[-TAIL_CHUNKS:]
    if head:
        # So many chunks average out: schedule them once at the mean pace, and stretch that as each scenario does.
        mean_pace = exp(belief.level + belief.chunk_variance / 2)
        free = sorted(_schedule([median(ends) for ends in zip(*free_in, strict=True)], head, [mean_pace], belief.warm))
        # The tail can only go to as many slots as it has chunks; of the others, only the last to end matters.
        free = free[:TAIL_CHUNKS] + free[TAIL_CHUNKS:][-1:]
        free_in = [[end * exp(levels.doubt * normal) for end in free] for normal in _NORMAL]
    if tail:
        # A pending chunk draws from two columns; the running ones have drawn from two each.
        paces_in = _paces(belief, levels, len(tail), first_column=2 * len(running))
        free_in = [_schedule(free, tail, paces, belief.warm) for free, paces in zip(free_in, paces_in, strict=True)]
    return [max(free) for free in free_in]


def _paces(belief: Belief, levels: _Levels, chunks: int, *, first_column: int) -> list[list[float]]:
    """In each scenario, the seconds per unit of each of so many chunks: neighbours resemble each other."""
    chunk_spread = belief.scale * CHUNK_SPREAD
    step_spread = belief.scale * SHARED_SPREAD * sqrt(1 - SHARED_STEP**2)
    columns = [(_column(first_column + 2 * n), _column(first_column + 2 * n + 1)) for n in range(min(chunks, 41))]
    paces_in = []
    for scenario, (level, shared) in enumerate(zip(levels.level, levels.shared, strict=True)):
        paces = []
        for number in range(chunks):
            own, step = columns[number % len(columns)]
            paces.append(exp(within(level + shared + chunk_spread * _NORMAL[own[scenario]], -30.0, 30.0)))
            shared = SHARED_STEP * shared + step_spread * _NORMAL[step[scenario]]
        paces_in.append(paces)
    return paces_in


def _remaining(timing: Timing, belief: Belief, levels: _Levels, number: int) -> list[float]:
    """In each scenario, the seconds until a running chunk ends, given that it has been quiet for so long.

    Its next page (the whole chunk, where chunks report no pages) takes a log-logistic time, which has the lognormal's
    body but a heavier tail: the longer it has been quiet, the longer it may still be.
    """
    cost, spread = timing.page_cost, belief.scale * PAGE_SPREAD
    mean, doubt, chunk_spread = belief.mean, levels.doubt, sqrt(belief.chunk_variance)
    seen = sight(timing, start_up=belief.cold if timing.first is None else belief.warm)
    start_up, at_work = 0.0, 1
    if seen is not None:
        # Its own pace, shrunk towards what chunks are like here.
        trust = belief.chunk_variance / (belief.chunk_variance + seen.variance)
        mean += trust * (seen.log_pace - mean)
        doubt, chunk_spread = (1 - trust) * doubt, sqrt(1 - trust) * chunk_spread
    elif belief.reports:
        start_up = belief.cold if timing.index < 1 or timing.elapsed > 2 * belief.warm else belief.warm
    else:
        start_up, at_work, spread = belief.warm, timing.pages, chunk_spread
        chunk_spread = 0.0
    paces = [
        exp(within(mean + doubt * normal + chunk_spread * _NORMAL[rank], -30.0, 30.0))
        for normal, rank in zip(_NORMAL, _column(2 * number), strict=True)
    ]
    shape = pi / sqrt(3) / max(spread, 1e-3)
    rest = max(0, timing.pages - timing.done - at_work)
    ranks = _column(2 * number + 1)
    # The pages to come differ from those that are done: each by itself, and where a chunk goes on otherwise.
    rest_spread = belief.scale * sqrt(PAGE_SPREAD**2 / rest + WITHIN_SPREAD**2) if rest else 0.0
    # While a report would not have been written yet, pages are taken to go on as before.
    gone = min(timing.quiet, timing.unwritten) if timing.first is not None else 0.0
    return [
        max(
            0.0,
            _still(start_up + at_work * cost * pace, shape, timing.quiet - gone, _UNIFORM[rank])
            # A long page comes with a low survival.
            + rest * cost * pace * exp(-rest_spread * _NORMAL[rank])
            - gone,
        )
        for pace, rank in zip(paces, ranks, strict=True)
    ]


def _still(typical: float, shape: float, waited: float, survival: float) -> float:
    """How much longer than ``waited`` a log-logistic time with median ``typical`` takes, with this survival.

    Solves S(t) = survival * S(waited) for S(t) = 1 / (1 + (t / typical)**shape), in units that cannot overflow.
    """
    unit = max(typical, waited)
    power = (typical / unit) ** shape * (1 / survival - 1) + (waited / unit) ** shape / survival
    return max(0.0, unit * exp(log(power) / shape) - waited)


def _schedule(free: list[float], costs: Sequence[float], paces: Sequence[float], start_up: float) -> list[float]:
    """When each slot is free again, after each chunk in order went to the slot that was free first."""
    heapify(free)
    only = paces[0] if len(paces) == 1 else None
    for number, cost in enumerate(costs):
        heapreplace(free, free[0] + start_up + cost * (paces[number] if only is None else only))
    return free


def _poured(free: Sequence[float], seconds: float) -> list[float]:
    """When each slot is free again after so much work of others, in small pieces, went to the slots free first."""
    ordered = sorted(free)
    level = ordered[0]
    for filled, next_free in enumerate([*ordered[1:], float("inf")], 1):
        step = min(seconds, (next_free - level) * filled)
        level += step / filled
        seconds -= step
        if seconds <= 0:
            break
    return [max(level, each) for each in ordered]


def _quantile(ordered: Sequence[float], probability: float) -> float:
    """Interpolated between the scenarios, each standing for the middle of its share."""
    place, part = divmod(probability * len(ordered) - 0.5, 1)
    below = ordered[int(place)]
    return below + part * (ordered[int(place) + 1] - below)


#: The middles of equal shares of probability, and the standard normal there. Scenario i has the job's pace _NORMAL[i].
_UNIFORM = [(rank + 0.5) / SCENARIOS for rank in range(SCENARIOS)]
_STANDARD = NormalDist()
_NORMAL = [_STANDARD.inv_cdf(uniform) for uniform in _UNIFORM]
_NEARLY_ALL = 1 - 1e-9
#: A Latin hypercube: each column a permutation of the ranks, nearly uncorrelated to the others and to the order.
_COLUMNS = [
    [(factor * (scenario + factor) ** 3 + factor) % SCENARIOS for scenario in range(SCENARIOS)]
    for factor in range(1, SCENARIOS)
]


def _column(number: int) -> list[int]:
    """The ranks, by scenario, that the draw of this number takes; far ones share."""
    return _COLUMNS[number % len(_COLUMNS)]
