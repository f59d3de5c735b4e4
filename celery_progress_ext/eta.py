"""When will it be done, from chunk timings.

The model. A chunk's pace, in seconds per page, is lognormal around the job's. What is known of the job's pace comes
from the finished chunks (``Pace``) and from the pages already done in the running ones. What is not known is played
through in ``SCENARIOS`` equally likely futures: in each, the job's pace and every chunk's own are drawn from a fixed
Latin hypercube, and the pending chunks are list-scheduled, in dispatch order, onto the slot that is free first. The
median finish is the estimate, the 10 % and 90 % quantiles are its interval. There is no randomness: the same facts
always give the same answer, and more pages never an earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import cycle
from math import exp, floor, log, pi, sqrt
from statistics import NormalDist

#: Futures played through. A prime that is 2 mod 3, so that cubing permutes the residues (see ``_hypercube``).
SCENARIOS = 41
#: What is believed of a job's spread of ln(seconds per page) between chunks before any is seen, and for how many
#: chunks' worth. OCR of 25-page chunks of mixed scans measured 0.25.
SPREAD, SPREAD_CHUNKS = 0.3, 4.0
#: The same between the pages of a chunk.
PAGE_SPREAD = 0.4
#: So many pages of its own outweigh what a chunk is believed to be like.
OWN_PAGES = 4.0
#: Finished chunks count as at most so many: documents drift, and the running chunks are what is happening now.
MEMORY_CHUNKS = 12.0
#: A merge takes what it was said to take, give or take.
MERGE_SPREAD = 0.3
#: Beyond so many pending chunks, the ones before are scheduled once and not in every scenario.
TAIL_CHUNKS = 400

MIN_PACE, MAX_PACE = 1e-6, 1e9
MAX_PAGES = 1_000_000_000
#: A hundred years: beyond, an estimate says nothing, and a date may not be representable. Seconds.
MAX_REMAINING = 100 * 365.25 * 86_400


@dataclass(frozen=True, kw_only=True)
class Eta:
    """When the job will be done, in seconds since the epoch: the best guess and an 80 % interval around it."""

    finish_at: float
    earliest: float
    latest: float


@dataclass(frozen=True, kw_only=True)
class RunningChunk:
    """A chunk at work: its pages, how many are done, seconds since it started and since its last page."""

    pages: int
    done: int
    elapsed: float
    quiet: float


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Sufficient statistics of the finished chunks, so that an estimate needs no scan of them.

    ``sum_log`` and ``sum_log_sq`` are over ln(seconds per page), one term per finished chunk.
    """

    chunks: int = 0
    pages: int = 0
    seconds: float = 0.0
    sum_log: float = 0.0
    sum_log_sq: float = 0.0

    @classmethod
    def of(cls, pages: int, seconds: float) -> Pace:
        """What one finished chunk adds to each field, for an ``UPDATE … SET field = field + …``."""
        pages = max(1, pages)
        log_pace = log(_clamp(seconds / pages, MIN_PACE, MAX_PACE))
        return cls(chunks=1, pages=pages, seconds=seconds, sum_log=log_pace, sum_log_sq=log_pace**2)

    def observe(self, pages: int, seconds: float) -> Pace:
        """With one more finished chunk, of so many pages and seconds."""
        more = Pace.of(pages, seconds)
        return Pace(
            chunks=self.chunks + more.chunks,
            pages=self.pages + more.pages,
            seconds=self.seconds + more.seconds,
            sum_log=self.sum_log + more.sum_log,
            sum_log_sq=self.sum_log_sq + more.sum_log_sq,
        )


@dataclass(frozen=True, kw_only=True)
class _Belief:
    """ln(seconds per page): its mean over the job, how unsure that mean is, and the spread between chunks."""

    mean: float
    doubt: float
    spread: float


def estimate(
    *,
    now: float,
    pending: Sequence[int],
    running: Sequence[RunningChunk],
    pace: Pace,
    slots: int,
    merge_seconds: float = 0.0,
) -> Eta | None:
    belief = _believe(pace, running)
    if belief is None:
        return None
    pages = [_clamp(count, 0, MAX_PAGES) for count in pending]
    idle = [0.0] * (min(slots, len(running) + len(pages)) - len(running))
    head, tail = pages[:-TAIL_CHUNKS], pages[-TAIL_CHUNKS:]
    finishes = []
    busy = [_remaining(chunk, belief, column) for column, chunk in enumerate(running, 1)]
    paces = [
        [exp(belief.mean + belief.doubt * common + belief.spread * own) for common, own in zip(_COLUMNS[0], c)]
        for c in _COLUMNS[1:]
    ]
    for s in range(SCENARIOS):
        free = [b[s] for b in busy] + idle or [0.0]
        free = _schedule(free, tail, [p[s] for p in paces], len(running))
        finishes.append(max(free) + _clamp(merge_seconds, 0, MAX_REMAINING) * exp(MERGE_SPREAD * _COLUMNS[-1][s]))
    finishes.sort()
    lo, mid, hi = (now + _clamp(_quantile(finishes, q), 0.0, MAX_REMAINING) for q in (0.1, 0.5, 0.9))
    return Eta(finish_at=mid, earliest=lo, latest=hi)


def _believe(pace, running):
    weight = min(pace.chunks, MEMORY_CHUNKS)
    terms = [(pace.sum_log / pace.chunks, weight)] if pace.chunks > 0 else []
    terms += [(_own(c), c.done / (c.done + OWN_PAGES)) for c in running if c.done > 0]
    if not terms:
        return None
    tw = sum(w for _, w in terms)
    mean = sum(x * w for x, w in terms) / tw
    ss = sum(w * (x - mean) ** 2 for x, w in terms)
    if pace.chunks:
        ss += max(0.0, pace.sum_log_sq / pace.chunks - (pace.sum_log / pace.chunks) ** 2) * weight
    var = (SPREAD**2 * SPREAD_CHUNKS + ss) / (SPREAD_CHUNKS + tw)
    return _Belief(mean=mean, doubt=sqrt(var / tw), spread=sqrt(var))


def _own(c):
    return log(_clamp(max((c.elapsed - c.quiet) / c.done, c.elapsed / (c.done + 1)), MIN_PACE, MAX_PACE))


def _remaining(chunk, belief, column):
    out = []
    z1 = _COLUMNS[column % len(_COLUMNS) or 1]
    z2 = _COLUMNS[(column * 7 + 3) % len(_COLUMNS) or 1]
    own = _own(chunk) if chunk.done > 0 else 0
    trust = chunk.done / (chunk.done + OWN_PAGES)
    if chunk.done > 0:
        unit, tail_shape, sd = 1, pi / sqrt(3) / PAGE_SPREAD, belief.spread * sqrt(1 - trust)
    else:
        unit, tail_shape, sd = max(1, chunk.pages), pi / sqrt(3) / belief.spread, 0.0
    rest = max(0, chunk.pages - chunk.done - unit)
    for s in range(SCENARIOS):
        pc = exp(trust * own + (1 - trust) * (belief.mean + belief.doubt * _COLUMNS[0][s]) + sd * z1[s])
        typical = pc * unit
        v = 1 - _UNIFORM(z2[s])
        longer = typical * ((1 + (chunk.quiet / typical) ** tail_shape) / v - 1) ** (1 / tail_shape)
        nxt = max(0.0, longer - chunk.quiet)
        out.append(nxt + rest * pc)
    return out


def _schedule(free, pages, paces, first):
    heapify(free)
    k = first % len(paces)
    for p, f in zip(pages, cycle(paces[k:] + paces[:k])):
        heapreplace(free, free[0] + p * f)
    return free


def _hypercube():
    z = [NormalDist().inv_cdf((k + 0.5) / SCENARIOS) for k in range(SCENARIOS)]
    return [z] + [[z[(c * (s + c) ** 3 + c) % SCENARIOS] for s in range(SCENARIOS)] for c in range(1, SCENARIOS)]


_COLUMNS = _hypercube()
_UNIFORM = NormalDist().cdf


def _quantile(v, q):
    x = q * len(v) - 0.5
    i = floor(x)
    return v[i] + (x - i) * (v[i + 1] - v[i])


def _clamp(x, lo, hi):
    return min(max(lo, x), hi)
