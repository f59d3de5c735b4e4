"""How good is the ETA? Simulated jobs, our estimate beside what progress bars usually do.

Run ``python -m bench.eta [jobs per scenario] [seed]`` from the checkout; some ten seconds, the same figures each time.

A job is a list of chunks worked on by four slots in dispatch order. A page takes a lognormal time: a level of the
job, a factor of its chunk, noise of its own; a chunk has a second of overhead. An estimator sees only what could be
observed at that moment: which chunks ran, and when their pages ended.

Read the figures with three things in mind. The simulated times are lognormal, as our model supposes; real ones need
not be. Our constants were chosen on jobs like these. And ours is told how long the merge may take, give
or take 30 %; the peers have no way to be told.

* ``error``: the median of |predicted - actual| / actual remaining time over 3-97 % of a job's life, then the median
  over the jobs. 0 is perfect. Moments without an estimate are left out, which flatters those who keep silent.
* ``silent``: the share of the job's life without any estimate.
* ``coverage``: how often the 80 % interval held the true finish; ``width``: the interval's median width, relative to
  the actual remaining time.
"""

from __future__ import annotations

import bisect
import heapq
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

from celery_progress_ext.eta import Eta, Pace, RunningChunk, estimate

SLOTS = 4
PAGE_NOISE = 0.35
CHUNK_NOISE = 0.25
MERGE_GUESS_NOISE = 0.3
MOMENTS = [0.03 + 0.94 * step / 31 for step in range(32)]


@dataclass(frozen=True, kw_only=True)
class SimulatedChunk:
    """When a chunk started and when each of its pages ended, in seconds since the job started."""

    start: float
    page_ends: Sequence[float]

    @property
    def pages(self) -> int:
        """How many pages the chunk has."""
        return len(self.page_ends)

    @property
    def end(self) -> float:
        """When its last page ended."""
        return self.page_ends[-1]

    def done(self, now: float) -> int:
        """How many of its pages had ended by ``now``."""
        return bisect.bisect_right(self.page_ends, now)


@dataclass(frozen=True, kw_only=True)
class SimulatedJob:
    """A job from its first to its last second, its chunks in dispatch order."""

    chunks: Sequence[SimulatedChunk]
    merge_seconds: float
    merge_guess: float

    @property
    def chunks_end(self) -> float:
        """When the last chunk ended and the merge began."""
        return max(chunk.end for chunk in self.chunks)

    @property
    def end(self) -> float:
        """When the job was done."""
        return self.chunks_end + self.merge_seconds

    def chunk_ends(self, now: float) -> list[float]:
        """When chunks ended, as far as known at ``now``, in order."""
        return sorted(chunk.end for chunk in self.chunks if chunk.end <= now)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is special about a kind of job."""

    sizes: Callable[[random.Random], list[int]]
    #: Pages in the second half of the job take so many times the pages in the first.
    second_half: float = 1.0
    #: Half of the slots are lost somewhere in the middle.
    lose_slots: bool = False
    #: The first chunk of each slot waits so long for models to load. Seconds.
    cold_start: float = 0.0
    #: The merge's share of the whole job.
    merge_share: float = 0.0


def lognormal_sizes(median: float, spread: float, chunks: int = 24) -> Callable[[random.Random], list[int]]:
    """Chunk sizes in pages around a median."""
    return lambda rng: [max(1, int(exp(rng.gauss(log(median), spread)))) for _ in range(chunks)]


def big_last(rng: random.Random) -> list[int]:
    """Small chunks, and a last one that is a fifth of all the others together."""
    sizes = lognormal_sizes(12, 0.4, 23)(rng)
    return [*sizes, sum(sizes) // 5]


SCENARIOS: Mapping[str, Scenario] = {
    "equal waves": Scenario(sizes=lambda _: [20] * 10),
    "unequal": Scenario(sizes=lognormal_sizes(18, 0.8)),
    "big last": Scenario(sizes=big_last),
    "text, scans": Scenario(sizes=lognormal_sizes(18, 0.5), second_half=7.0),
    "lose half": Scenario(sizes=lognormal_sizes(18, 0.5), lose_slots=True),
    "merge 20 %": Scenario(sizes=lognormal_sizes(18, 0.6), merge_share=0.2),
    "cold start": Scenario(sizes=lognormal_sizes(14, 0.6), cold_start=25.0),
}


def simulate(scenario: Scenario, rng: random.Random) -> SimulatedJob:
    """One job of this kind."""
    level = exp(rng.gauss(log(1.5), 0.35))
    sizes = scenario.sizes(rng)
    durations: list[list[float]] = []
    pages_before = 0
    for size in sizes:
        factor = exp(rng.gauss(0, CHUNK_NOISE))
        if pages_before + size / 2 >= sum(sizes) / 2:
            factor *= scenario.second_half
        pages_before += size
        durations.append([level * factor * exp(rng.gauss(0, PAGE_NOISE)) for _ in range(size)])
    work = sum(map(sum, durations))
    slots_lost_at = rng.uniform(0.3, 0.6) * work / SLOTS if scenario.lose_slots else float("inf")

    free = [(0.0, slot) for slot in range(SLOTS)]
    chunks = []
    for duration in durations:
        start, slot = heapq.heappop(free)
        while slot >= SLOTS // 2 and start > slots_lost_at:
            start, slot = heapq.heappop(free)
        cold = scenario.cold_start * rng.uniform(0.8, 1.2) if start == 0 else 0.0
        page_ends = [start + 1.0 + cold + duration[0]]
        for seconds in duration[1:]:
            page_ends.append(page_ends[-1] + seconds)
        chunks.append(SimulatedChunk(start=start, page_ends=page_ends))
        heapq.heappush(free, (page_ends[-1], slot))

    chunks_end = max(chunk.end for chunk in chunks)
    merge = chunks_end * scenario.merge_share / (1 - scenario.merge_share) * exp(rng.gauss(0, 0.15))
    return SimulatedJob(chunks=chunks, merge_seconds=merge, merge_guess=merge * exp(rng.gauss(0, MERGE_GUESS_NOISE)))


def ours(job: SimulatedJob, now: float) -> Eta | None:
    """``celery_progress_ext.eta.estimate`` on what can be observed at ``now``."""
    pace = Pace()
    running = []
    for chunk in job.chunks:
        if chunk.end <= now:
            pace = pace.observe(chunk.pages, chunk.end - chunk.start)
        elif chunk.start <= now:
            done = chunk.done(now)
            last = chunk.page_ends[done - 1] if done else chunk.start
            running.append(RunningChunk(pages=chunk.pages, done=done, elapsed=now - chunk.start, quiet=now - last))
    # What a caller can do about a merge that takes longer than was thought: never say less than a tenth of it.
    merging = max(now - job.chunks_end, 0.0)
    return estimate(
        now=now,
        pending=[chunk.pages for chunk in job.chunks if chunk.start > now],
        running=running,
        pace=pace,
        slots=len(running),
        merge_seconds=max(job.merge_guess - merging, 0.1 * job.merge_guess),
    )


def count_linear(job: SimulatedJob, now: float) -> float | None:
    """Elapsed time per finished chunk times the chunks left: joblib, sidekiq-status, tqdm with smoothing=0."""
    done = len(job.chunk_ends(now))
    return now / done * (len(job.chunks) - done) if done else None


def tqdm_ema(job: SimulatedJob, now: float, smoothing: float = 0.3) -> float | None:
    """An exponential moving average of the time between finished chunks, bias-corrected: tqdm's default."""
    ends = job.chunk_ends(now)
    if not ends:
        return None
    average = 0.0
    for before, end in zip([0.0, *ends], ends, strict=False):
        average = smoothing * (end - before) + (1 - smoothing) * average
    return average / (1 - (1 - smoothing) ** len(ends)) * (len(job.chunks) - len(ends))


def rich_window(job: SimulatedJob, now: float, window: float = 30.0) -> float | None:
    """The speed over the last 30 s: rich."""
    ends = job.chunk_ends(now)
    recent = [end for end in ends if end >= now - window]
    if len(recent) < 2:
        return None
    return (recent[-1] - recent[0]) / (len(recent) - 1) * (len(job.chunks) - len(ends))


def pages_linear(job: SimulatedJob, now: float) -> float | None:
    """Elapsed time per finished page times the pages left, with the pages of running chunks counted."""
    done = sum(chunk.done(now) for chunk in job.chunks)
    return now / done * (sum(chunk.pages for chunk in job.chunks) - done) if done else None


PEERS: Mapping[str, Callable[[SimulatedJob, float], float | None]] = {
    "count-linear": count_linear,
    "tqdm EMA": tqdm_ema,
    "rich window": rich_window,
    "pages-linear": pages_linear,
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """How an estimator did on the jobs of one scenario."""

    error: float
    silent: float
    coverage: float = float("nan")
    width: float = float("nan")


def score_peer(jobs: Iterable[SimulatedJob], peer: Callable[[SimulatedJob, float], float | None]) -> Score:
    """A peer gives one number, so it has no coverage."""
    errors, silent, moments = [], 0, 0
    for job in jobs:
        guesses = [(peer(job, share * job.end), (1 - share) * job.end) for share in MOMENTS]
        made = [abs(guess - actual) / actual for guess, actual in guesses if guess is not None]
        moments += len(guesses)
        silent += len(guesses) - len(made)
        if made:
            errors.append(statistics.median(made))
    return Score(error=statistics.median(errors), silent=silent / moments)


def score_ours(jobs: Iterable[SimulatedJob]) -> Score:
    """Ours gives an interval too."""
    errors, widths, covered, silent, moments = [], [], 0, 0, 0
    for job in jobs:
        made = []
        for share in MOMENTS:
            moments += 1
            now, actual = share * job.end, (1 - share) * job.end
            eta = ours(job, now)
            if eta is None:
                silent += 1
                continue
            made.append(abs(eta.finish_at - job.end) / actual)
            widths.append((eta.latest - eta.earliest) / actual)
            covered += eta.earliest <= job.end <= eta.latest
        errors.append(statistics.median(made))
    return Score(
        error=statistics.median(errors),
        silent=silent / moments,
        coverage=covered / (moments - silent),
        width=statistics.median(widths),
    )


def main(jobs_per_scenario: int = 60, seed: int = 1) -> None:
    """Simulate, score and print the tables."""
    rng = random.Random(seed)
    scores: dict[str, list[Score]] = {name: [] for name in [*PEERS, "ours"]}
    for scenario in SCENARIOS.values():
        jobs = [simulate(scenario, rng) for _ in range(jobs_per_scenario)]
        for name, peer in PEERS.items():
            scores[name].append(score_peer(jobs, peer))
        scores["ours"].append(score_ours(jobs))

    print(f"{jobs_per_scenario} jobs per scenario, seed {seed}")
    _table("error", {name: [score.error for score in row] for name, row in scores.items()})
    _table("silent", {name: [score.silent for score in row] for name, row in scores.items()})
    _table("coverage", {"ours": [score.coverage for score in scores["ours"]]})
    _table("width", {"ours": [score.width for score in scores["ours"]]})


def _table(title: str, rows: Mapping[str, Sequence[float]]) -> None:
    print(f"\n{title:14}" + "".join(f"{name:>13}" for name in SCENARIOS) + f"{'mean':>13}")
    for name, values in rows.items():
        print(f"{name:14}" + "".join(f"{value:13.3f}" for value in [*values, statistics.fmean(values)]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
