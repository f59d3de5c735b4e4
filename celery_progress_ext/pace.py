"""How fast the chunks of a job go: what is believed of those to come, from those that were seen.

The model. A chunk's pace is a number of seconds per unit of cost (a page, unless the job says what its chunks are
expected to cost), once its start-up is over. Its logarithm is a level that drifts slowly along the document, plus a
deviation that neighbouring chunks share, plus one of its own. A Kalman filter over the chunks, in the order in which
they are dispatched, keeps what is known of level and deviation, and how well. A chunk at work is seen as far as its
pages are done.

Sources: R. E. Kalman, A new approach to linear filtering and prediction problems (1960); A. C. Harvey, Forecasting,
structural time series models and the Kalman filter (1989), chapter 2, for level and deviation. The constants were
chosen on recorded and simulated jobs; ``python -m bench.eta`` measures what they give.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import median

#: The spread of ln(seconds per unit) that neighbouring chunks share, and how much of it the next chunk has, too.
SHARED_SPREAD, SHARED_STEP = 0.22, 0.75
#: The spread of a chunk alone, and of a page alone, about that.
CHUNK_SPREAD, PAGE_SPREAD = 0.15, 0.35
#: By how much the level drifts from one chunk to the next.
DRIFT = 0.05
#: The variance of the level before anything is known of it: nothing.
UNKNOWN_VARIANCE = 9.0
#: For how many chunks' worth the spreads above are believed.
SPREAD_CHUNKS = 6.0
#: A chunk further off than so many spreads is taken for an accident, and for a hint that the pages have changed.
OUTLIER = 2.6
#: The variance that a start-up of unknown length adds while one page is done; less with more pages.
START_UP_VARIANCE = 0.6

#: A chunk at work writes its pages at most so often; the first page at once. Seconds.
PAGES_SECONDS = 1.0

#: Bounds of what is believed, so that no input leads to an overflow: seconds per unit, variance, pages of a chunk.
MIN_PACE, MAX_PACE = 1e-6, 1e9
MAX_VARIANCE = 9.0
MAX_PAGES = 1_000_000_000
#: A hundred years. Seconds.
MAX_SECONDS = 100 * 365.25 * 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """A chunk that was started, as far as it was seen.

    :ivar index: its place in the order of dispatch, from 0.
    :ivar pages: how many pages it has, and ``done`` how many are done: all of them where it is finished.
    :ivar cost: what it is expected to cost, in any unit; its pages where nothing else is known.
    :ivar elapsed: seconds since it started; from start to end where it is finished.
    :ivar quiet: seconds since its last page.
    :ivar first: seconds from its start to its first report, and ``first_done`` how many pages that said were done; None
        where it has not reported any.
    :ivar unwritten: for how many seconds pages may be done that nobody has heard of: reports are written at a limited
        rate.
    """

    index: int
    pages: int
    cost: float
    done: int
    elapsed: float
    quiet: float = 0.0
    first: float | None = None
    first_done: int = 1
    unwritten: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether all of it is done."""
        return self.done >= self.pages

    @property
    def page_cost(self) -> float:
        """What one of its pages is expected to cost."""
        return self.cost / self.pages

    def sane(self) -> Timing:
        """With counts and seconds that can be true, whatever clocks and rows say."""
        pages = min(max(1, self.pages), MAX_PAGES)
        done = min(max(0, self.done), pages)
        elapsed = within(self.elapsed, 0.0, MAX_SECONDS)
        first = None if self.first is None or not done else within(self.first, 0.0, elapsed)
        return Timing(
            index=min(max(0, self.index), MAX_PAGES),
            pages=pages,
            cost=within(self.cost, 1e-6, float(MAX_PAGES)),
            done=done,
            elapsed=elapsed,
            quiet=within(self.quiet, 0.0, elapsed) if done else elapsed,
            first=first,
            first_done=min(max(1, self.first_done), max(1, done)),
            unwritten=within(self.unwritten, 0.0, 60.0),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """What past jobs of the kind say of the next one. Times are seconds, the pace is ln(seconds per unit of cost).

    :ivar pace: what a job's pace is like, and ``pace_spread`` how much jobs differ.
    :ivar warm: the start-up of a chunk in a process that has worked on one before, and ``cold`` in a new one.
    """

    pace: float
    pace_spread: float
    warm: float = 0.0
    cold: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """One chunk's ln(seconds per unit), and the variance of what its pages say of it."""

    index: int
    log_pace: float
    variance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Belief:
    """What is believed of the chunks to come.

    ln(seconds per unit) of the next chunk is ``level + shared``, with these variances and covariance; the chunk after
    it has ``SHARED_STEP`` of ``shared``. Spreads of chunks and pages are those above times ``scale``.
    """

    level: float
    shared: float
    level_variance: float
    shared_variance: float
    covariance: float
    scale: float
    warm: float
    cold: float
    #: Whether chunks report their pages; one that does not is a single step.
    reports: bool

    @property
    def mean(self) -> float:
        """ln(seconds per unit) of the next chunk."""
        return self.level + self.shared

    @property
    def chunk_variance(self) -> float:
        """By how much a single chunk differs from the level."""
        return self.scale**2 * (SHARED_SPREAD**2 + CHUNK_SPREAD**2)


def believe(timings: Iterable[Timing], experience: Experience | None = None, *, slots: int = 1) -> Belief | None:
    """What is believed after these chunks (sane ones); None where nothing was seen, neither of this job nor before.

    :param slots: how many chunks are at work at once: so many of the first started in new processes.
    """
    ordered = sorted(timings, key=lambda timing: timing.index)
    warm, cold = _start_ups(ordered, experience, slots=slots)
    sightings = [seen for timing in ordered if (seen := sight(timing, start_up=warm)) is not None]
    if not sightings and experience is None:
        return None
    reports = not sightings or any(timing.first is not None for timing in ordered)
    if experience is not None:
        level, level_variance = experience.pace, experience.pace_spread**2
    else:
        level, level_variance = sightings[0].log_pace, UNKNOWN_VARIANCE
    shared, shared_variance, covariance = 0.0, SHARED_SPREAD**2, 0.0
    surprise, place = SPREAD_CHUNKS, sightings[0].index if sightings else 0
    for seen in sightings:
        # Predict: the chunk this many places further on.
        step = SHARED_STEP ** (seen.index - place)
        level_variance = min(level_variance + DRIFT**2 * (seen.index - place), UNKNOWN_VARIANCE)
        shared, covariance = shared * step, covariance * step
        shared_variance = shared_variance * step**2 + SHARED_SPREAD**2 * (1 - step**2)
        place = seen.index
        # Update, by no more than an outlier's worth.
        level_gain, shared_gain = level_variance + covariance, shared_variance + covariance
        total = level_gain + shared_gain + CHUNK_SPREAD**2 + seen.variance
        missed = seen.log_pace - level - shared
        bound = OUTLIER * sqrt(total)
        beyond = max(0.0, missed**2 - bound**2)
        missed = within(missed, -bound, bound)
        surprise += missed**2 / total
        level += level_gain / total * missed
        shared += shared_gain / total * missed
        level_variance -= level_gain**2 / total
        shared_variance -= shared_gain**2 / total
        covariance -= level_gain * shared_gain / total
        # As in a random effects meta-analysis: what differs by too much belongs to other pages, perhaps.
        level_variance = min(level_variance + beyond, UNKNOWN_VARIANCE)
    scale = sqrt(within(surprise / (SPREAD_CHUNKS + len(sightings)), 0.05, 9.0))
    return Belief(
        level=within(level, log(MIN_PACE), log(MAX_PACE)),
        shared=within(shared, -20.0, 20.0),
        level_variance=within(level_variance * scale**2, 0.0, MAX_VARIANCE),
        shared_variance=within(shared_variance * scale**2, 0.0, MAX_VARIANCE),
        covariance=within(covariance * scale**2, -MAX_VARIANCE, MAX_VARIANCE),
        scale=scale,
        warm=warm,
        cold=cold,
        reports=reports,
    )


def sight(timing: Timing, *, start_up: float) -> Sighting | None:
    """What a chunk's own pages say of its pace; None while none is done."""
    if timing.done <= 0:
        return None
    worked = timing.elapsed - timing.quiet
    pages = timing.done - timing.first_done
    if timing.first is not None and pages > 0:
        began, unknown = timing.first, 0.0
    else:
        pages = timing.done
        began = min(start_up, 0.9 * worked)
        unknown = 0.0 if timing.finished and pages > 1 else START_UP_VARIANCE / pages
    seconds = (worked - began) / pages
    if not timing.finished:
        # The page at work may have taken longer than those that are done, already.
        seconds = max(seconds, (timing.elapsed - timing.unwritten - began) / (pages + 1))
    return Sighting(
        index=timing.index,
        log_pace=log(within(seconds / timing.page_cost, MIN_PACE, MAX_PACE)),
        variance=PAGE_SPREAD**2 / pages + unknown,
    )


def start_up_of(timing: Timing) -> float | None:
    """How many seconds a chunk's start-up took: what its first pages took beyond their share; None while not known."""
    pages = timing.done - timing.first_done
    if timing.first is None or pages <= 0:
        return None
    page = (timing.elapsed - timing.quiet - timing.first) / pages
    return max(0.0, timing.first - timing.first_done * page)


def start_ups_of(timings: Iterable[Timing], *, slots: int) -> tuple[list[float], list[float]]:
    """The start-ups that are known: of later chunks, in processes that had worked on one, and of the first ``slots``,
    in new ones. Seconds.
    """
    known = {timing.index: start_up for timing in timings if (start_up := start_up_of(timing)) is not None}
    warm = [start_up for index, start_up in known.items() if index >= slots]
    return warm, [start_up for index, start_up in known.items() if index < slots]


def _start_ups(timings: Sequence[Timing], experience: Experience | None, *, slots: int) -> tuple[float, float]:
    """The start-up of a chunk to come, in a process that has worked on one before and in a new one. Seconds."""
    warm, cold = start_ups_of(timings, slots=slots)
    if experience is not None:
        # As if two chunks had been seen.
        warm += [experience.warm] * 2
        cold += [experience.cold] * 2
    if not cold:
        return (median(warm) if warm else 0.0), (median(warm) if warm else 0.0)
    if not warm:
        # Nobody has started a second chunk: a start-up is rarely more than a page's time where all is loaded.
        pages = [exp(seen.log_pace) * timing.page_cost for timing in timings if (seen := sight(timing, start_up=0.0))]
        warm = [min(median(cold), 0.5 * median(pages))]
    return median(warm), median(cold)


def within(value: float, low: float, high: float) -> float:
    """Clamped; ``low`` for NaN, with which no comparison is true."""
    return min(max(low, value), high)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What the finished chunks took together, so that nobody has to scan them for that.

    ``sum_log`` and ``sum_log_sq`` are over ln(seconds per page), one term per finished chunk: processes of before
    revision 0004 estimate by them. Every field is a sum, so that a row is kept up to date by
    ``UPDATE … SET field = field + …`` with the fields of ``Pace.of``.
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
        pace = within(seconds, MIN_PACE * pages, MAX_PACE * pages) / pages
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
