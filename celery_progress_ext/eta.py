"""When will it be done, from chunk timings.

The model. A chunk's pace, in seconds per page, is lognormal around the job's. What is known of the job's pace comes
from the finished chunks (``Pace``) and from the pages already done in the running ones. What is not known is played
through in ``SCENARIOS`` equally likely futures: in each, the job's pace and every chunk's own are drawn from a fixed
Latin hypercube, and the pending chunks are list-scheduled, in dispatch order, onto the slot that is free first. The
median finish is the estimate, the 10 % and 90 % quantiles are its interval.

There is no randomness: the same facts give the same answer. And list scheduling of independent chunks in a fixed
order has no anomalies, so that a longer chunk never gives an earlier finish, and a further slot never a later one.

``python -m bench.eta`` measures the estimate on simulated jobs; the constants below were chosen with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heapreplace
from itertools import cycle
from math import exp, log, pi, sqrt
from statistics import NormalDist, median

#: Futures played through. A prime that is 2 mod 3, for which cubing permutes the residues (see ``_COLUMNS``).
SCENARIOS = 41

#: The spread of ln(seconds per page) between chunks, as believed before any is seen, and for how many chunks' worth.
SPREAD, SPREAD_CHUNKS = 0.3, 4.0
#: The same between the pages of one chunk.
PAGE_SPREAD = 0.35
#: So many pages of its own weigh as much as what a chunk is expected to be like.
OWN_PAGES = 5.0
#: Finished chunks weigh as at most so many: documents drift, and the running chunks are nearer to what comes.
MEMORY_CHUNKS = 5.0
#: Running chunks that differ from the finished ones by more than so many variances mean that the pages have changed.
CHANGE_VARIANCES = 4.0
#: The variance that a chunk's start-up adds to ln(seconds per page) as long as one page is done; less with more pages.
START_UP_VARIANCE = 1.0
#: What no timing shows: workers lost, models loaded, harder pages to come. Added to the doubt about the job's pace.
UNSEEN_SPREAD = 0.2
#: A merge takes what it was said to take, give or take.
MERGE_SPREAD = 0.4

#: Of more pending chunks than this, only the last are scheduled in every scenario.
TAIL_CHUNKS = 200

#: Bounds of what is believed, so that no input leads to an overflow: seconds per page, variance, pages of a chunk.
MIN_PACE, MAX_PACE = 1e-6, 1e9
MAX_VARIANCE = 9.0
MAX_PAGES = 1_000_000_000
#: A hundred years: an estimate beyond says nothing, and would soon be no valid date. Seconds.
MAX_REMAINING = 100 * 365.25 * 86_400


@dataclass(frozen=True, kw_only=True)
class Eta:
    """When the job will be done, in seconds since the epoch: the best guess and an 80 % interval around it."""

    finish_at: float
    earliest: float
    latest: float


@dataclass(frozen=True, kw_only=True)
class RunningChunk:
    """A chunk at work: its pages, how many are done, seconds since it started and since its last page.

    While no page is done, a chunk is quiet since it started, whatever ``quiet`` says; so is one that reports no pages.
    """

    pages: int
    done: int
    elapsed: float
    quiet: float


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Sufficient statistics of the finished chunks, so that an estimate needs no scan of them.

    ``sum_log`` and ``sum_log_sq`` are over ln(seconds per page), one term per finished chunk. Every field is a sum,
    so that a row is kept up to date by ``UPDATE … SET field = field + …`` with the fields of ``Pace.of``.
    """

    chunks: int = 0
    pages: int = 0
    seconds: float = 0.0
    sum_log: float = 0.0
    sum_log_sq: float = 0.0

    @classmethod
    def of(cls, pages: int, seconds: float) -> Pace:
        """What one finished chunk adds to each field: its pages, at least 1, and the seconds from start to end."""
        pages = min(max(1, pages), MAX_PAGES)
        pace = _within(seconds, MIN_PACE * pages, MAX_PACE * pages) / pages
        return cls(chunks=1, pages=pages, seconds=pace * pages, sum_log=log(pace), sum_log_sq=log(pace) ** 2)

    def observe(self, pages: int, seconds: float) -> Pace:
        """This and one more finished chunk."""
        more = Pace.of(pages, seconds)
        return Pace(
            chunks=self.chunks + more.chunks,
            pages=self.pages + more.pages,
            seconds=self.seconds + more.seconds,
            sum_log=self.sum_log + more.sum_log,
            sum_log_sq=self.sum_log_sq + more.sum_log_sq,
        )


def estimate(
    *,
    now: float,
    pending: Sequence[int],
    running: Sequence[RunningChunk],
    pace: Pace,
    slots: int,
    merge_seconds: float = 0.0,
) -> Eta | None:
    """When the job will be done; None as long as not one page of it is.

    :param now: seconds since the epoch, on the same clock as the timings.
    :param pending: the pages of each chunk that has not started, in dispatch order.
    :param running: the chunks at work.
    :param pace: the finished chunks.
    :param slots: how many chunks are worked on at once; more than ``running`` when a slot has just become free.
    :param merge_seconds: what the merge is still expected to take, 0 when there is none.
    :returns: ``now <= earliest <= finish_at <= latest``, all finite. Never raises for any numbers.
    """
    running = [_sane_chunk(chunk) for chunk in running]
    belief = _believe(_sane_pace(pace), running)
    if belief is None:
        return None
    chunk_ends = _play(belief, [min(max(0, pages), MAX_PAGES) for pages in pending], running, slots)
    merge = _within(merge_seconds, 0.0, MAX_REMAINING)
    finishes = sorted(
        end + merge * exp(MERGE_SPREAD * _NORMAL[rank]) for end, rank in zip(chunk_ends, _column(-1), strict=True)
    )
    earliest, finish_at, latest = (now + _within(_quantile(finishes, q), 0.0, MAX_REMAINING) for q in (0.1, 0.5, 0.9))
    return Eta(finish_at=finish_at, earliest=earliest, latest=latest)


@dataclass(frozen=True, kw_only=True)
class _Belief:
    """About ln(seconds per page) of the chunks to come: the mean, how unsure it is, the spread between chunks."""

    mean: float
    doubt: float
    spread: float

    def paces(self, column: Sequence[int] | None = None) -> list[float]:
        """Seconds per page in each scenario: of the job, or of the chunk that draws from this column."""
        common = (self.mean + self.doubt * normal for normal in _NORMAL)
        if column is None:
            return [exp(mean) for mean in common]
        return [exp(mean + self.spread * _NORMAL[rank]) for mean, rank in zip(common, column, strict=True)]


def _believe(pace: Pace, running: Sequence[RunningChunk]) -> _Belief | None:
    """Weigh the finished and the running chunks; None when there are neither."""
    own = [(_own_log_pace(chunk), _own_weight(chunk)) for chunk in running if chunk.done > 0]
    new_weight = sum(weight for _, weight in own)
    old_weight = min(float(pace.chunks), MEMORY_CHUNKS)
    if not old_weight and not new_weight:
        return None

    new_mean = sum(value * weight for value, weight in own) / new_weight if own else 0.0
    squares = sum(weight * (value - new_mean) ** 2 for value, weight in own)
    typical = 0.0
    if old_weight:
        typical = _within(pace.sum_log / pace.chunks, log(MIN_PACE), log(MAX_PACE))
        squares += old_weight * _within(pace.sum_log_sq / pace.chunks - typical**2, 0.0, MAX_VARIANCE)
    weight = SPREAD_CHUNKS + old_weight + new_weight
    variance = _within((SPREAD_CHUNKS * SPREAD**2 + squares) / weight, 0.0, MAX_VARIANCE)

    if not old_weight:
        mean, uncertainty = new_mean, variance / new_weight
    elif not new_weight:
        mean, uncertainty = _old_mean(pace, typical, variance), variance / old_weight
    else:
        # Two samples of one pace, unless they differ too much for that: then the pages have changed, and what is
        # finished says the less about what is to come, the more they differ (as in a random effects meta-analysis).
        old_mean = _old_mean(pace, typical, variance)
        old_variance, new_variance = variance / old_weight, variance / new_weight
        # A first page may have waited for a worker's start-up: a few pages are no sign of a change.
        new_variance += START_UP_VARIANCE / sum(chunk.done for chunk in running)
        old_variance += max(0.0, (old_mean - new_mean) ** 2 - CHANGE_VARIANCES * (old_variance + new_variance))
        mean = (old_mean * new_variance + new_mean * old_variance) / (old_variance + new_variance)
        uncertainty = old_variance * new_variance / (old_variance + new_variance)
    return _Belief(mean=mean, doubt=sqrt(uncertainty + UNSEEN_SPREAD**2), spread=sqrt(variance))


def _old_mean(pace: Pace, typical: float, variance: float) -> float:
    """The mean of ln(seconds per page) over finished chunks by their pages, since a large chunk says more.

    Held within a standard error of the plain mean ``typical``, which one chunk that had hung cannot carry off.
    The mean of a lognormal is above its median by half its variance.
    """
    error = sqrt(variance / pace.chunks)
    by_pages = log(_within(pace.seconds / pace.pages, MIN_PACE, MAX_PACE)) - variance / 2
    return _within(by_pages, typical - error, typical + error)


def _own_log_pace(chunk: RunningChunk) -> float:
    """ln(seconds per page) of a running chunk: of its pages done, or with the page at work if that already is more."""
    at_least = chunk.elapsed / (chunk.done + 1)
    return log(_within(max(at_least, (chunk.elapsed - chunk.quiet) / chunk.done), MIN_PACE, MAX_PACE))


def _own_weight(chunk: RunningChunk) -> float:
    """How much of what a running chunk will be like is known from itself, 0 to 1."""
    return chunk.done / (chunk.done + OWN_PAGES)


def _play(belief: _Belief, pending: Sequence[int], running: Sequence[RunningChunk], slots: int) -> list[float]:
    """In each scenario, the seconds from now until the last chunk ends."""
    idle = [0.0] * (max(1, min(slots, len(running) + len(pending))) - len(running))
    busy = [_remaining(chunk, belief, number) for number, chunk in enumerate(running)]
    free_in = [[*(ends[scenario] for ends in busy), *idle] for scenario in range(SCENARIOS)]
    head, tail = pending[:-TAIL_CHUNKS], pending[-TAIL_CHUNKS:]
    if head:
        # So many chunks average out: schedule them once at the mean pace, and stretch that as each scenario does.
        mean_pace = exp(belief.mean + belief.spread**2 / 2)
        free = sorted(_schedule([*map(median, busy), *idle], head, [mean_pace]))
        # The tail can only go to as many slots as it has chunks; of the others, only the last to end matters.
        free = free[:TAIL_CHUNKS] + free[TAIL_CHUNKS:][-1:]
        free_in = [[end * exp(belief.doubt * normal) for end in free] for normal in _NORMAL]
    if tail:
        # A pending chunk draws its pace from one column; the running ones have drawn from two each.
        columns = range(2 * len(running), 2 * len(running) + min(len(tail), len(_COLUMNS)))
        paces_in = zip(*(belief.paces(_column(number)) for number in columns), strict=True)
        free_in = [_schedule(free, tail, paces) for free, paces in zip(free_in, paces_in, strict=True)]
    return [max(free) for free in free_in]


def _remaining(chunk: RunningChunk, belief: _Belief, number: int) -> list[float]:
    """In each scenario, the seconds until a running chunk ends, given that it has been quiet for so long.

    Its next page (the whole chunk, while none is done: perhaps it reports none) takes a log-logistic time, which has
    the lognormal's body but a heavier tail: the longer it has been quiet, the longer it may still be.
    """
    if chunk.done > 0:
        own, trust = _own_log_pace(chunk), _own_weight(chunk)
        # Its own pace, shrunk towards what chunks are like here.
        belief = _Belief(
            mean=trust * own + (1 - trust) * belief.mean,
            doubt=(1 - trust) * belief.doubt,
            spread=sqrt(1 - trust) * belief.spread,
        )
        paces, at_work, spread = belief.paces(_column(2 * number)), 1, PAGE_SPREAD
    else:
        paces, at_work, spread = belief.paces(), max(1, chunk.pages), belief.spread
    rest = max(0, chunk.pages - chunk.done - at_work)
    shape = pi / sqrt(3) / spread
    survivals = [_UNIFORM[rank] for rank in _column(2 * number + 1)]
    return [
        _still(at_work * pace, shape, chunk.quiet, survival) + rest * pace
        for pace, survival in zip(paces, survivals, strict=True)
    ]


def _still(typical: float, shape: float, waited: float, survival: float) -> float:
    """How much longer than ``waited`` a log-logistic time with median ``typical`` takes, with this survival.

    Solves S(t) = survival * S(waited) for S(t) = 1 / (1 + (t / typical)**shape), in units that cannot overflow.
    """
    unit = max(typical, waited)
    power = (typical / unit) ** shape * (1 / survival - 1) + (waited / unit) ** shape / survival
    return max(0.0, unit * exp(log(power) / shape) - waited)


def _schedule(free: list[float], pages: Sequence[int], paces: Sequence[float]) -> list[float]:
    """When each slot is free again, after each chunk in order went to the slot that was free first."""
    heapify(free)
    for count, pace in zip(pages, cycle(paces), strict=False):
        heapreplace(free, free[0] + count * pace)
    return free


def _quantile(ordered: Sequence[float], probability: float) -> float:
    """Interpolated between the scenarios, each standing for the middle of its share."""
    place, part = divmod(probability * len(ordered) - 0.5, 1)
    below = ordered[int(place)]
    return below + part * (ordered[int(place) + 1] - below)


def _within(value: float, low: float, high: float) -> float:
    """Clamped; ``low`` for NaN, with which no comparison is true."""
    return min(max(low, value), high)


def _sane_pace(pace: Pace) -> Pace:
    """Counts that floats can hold."""
    return replace(pace, chunks=min(max(0, pace.chunks), MAX_PAGES), pages=min(max(1, pace.pages), MAX_PAGES))


def _sane_chunk(chunk: RunningChunk) -> RunningChunk:
    """Counts and seconds that can be true, whatever clocks did."""
    elapsed = _within(chunk.elapsed, 0.0, MAX_REMAINING)
    return RunningChunk(
        pages=min(max(0, chunk.pages), MAX_PAGES),
        done=min(max(0, chunk.done), MAX_PAGES),
        elapsed=elapsed,
        quiet=_within(chunk.quiet, 0.0, elapsed) if chunk.done > 0 else elapsed,
    )


#: The middles of equal shares of probability, and the standard normal there. Scenario i has the job's pace _NORMAL[i].
_UNIFORM = [(rank + 0.5) / SCENARIOS for rank in range(SCENARIOS)]
_NORMAL = [NormalDist().inv_cdf(uniform) for uniform in _UNIFORM]
#: A Latin hypercube: each column a permutation of the ranks, nearly uncorrelated to the others and to the order.
_COLUMNS = [
    [(factor * (scenario + factor) ** 3 + factor) % SCENARIOS for scenario in range(SCENARIOS)]
    for factor in range(1, SCENARIOS)
]


def _column(number: int) -> list[int]:
    """The ranks, by scenario, that the draw of this number takes; far ones share."""
    return _COLUMNS[number % len(_COLUMNS)]
