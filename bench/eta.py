"""How good is the ETA? Recorded and simulated jobs, our estimate beside what progress bars usually do.

``python -m bench.eta [--jobs N] [--past N] [--seed N] [--recordings FILE] [--corpus DIR]`` from the checkout; some
minutes, the same figures each time.

At each moment the estimator gets the rows that the product would have then (``bench.timed_jobs``), by the code that
makes its snapshots (``storage.estimates.promise``); of past jobs it knows what the tick has learned from them
(``storage.kinds.figures_of``). Nobody says how long the merge takes. Recorded jobs are estimated with what jobs of
*other* documents taught.

Simulated jobs run on four slots. Pages differ, neighbours resemble each other, and their time drifts along the job; the
constants of the model were chosen on recorded jobs and on jobs like these, so the recorded ones are the harder test.

* ``error``: the median of |predicted - actual| / actual remaining time over 3-97 % of a job's life, then the median
  over the jobs. 0 is perfect. Moments without an estimate are left out, which flatters those who keep silent.
* ``silent``: the share of the job's life without any estimate.
* ``held``: how often the 80 % interval held the true finish; ``width``: the interval's width, relative to the actual
  remaining time, the median over the moments of a job and then over the jobs.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.timed_jobs import SCENARIOS, Recording, TimedJob, recorded, simulate
from celery_progress_ext.calibration import Promise
from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.eta import Eta
from celery_progress_ext.kinds import Kind
from celery_progress_ext.steady import Shown, steady
from celery_progress_ext.storage.estimates import RECENT_CHUNKS, Moment, promise
from celery_progress_ext.storage.kinds import figures_of

MOMENTS = [0.03 + 0.94 * step / 31 for step in range(32)]
#: Kinds of jobs of one scenario, each with past jobs of its own.
KINDS = 3


def ours(job: TimedJob, now: float, kind: Kind) -> Promise | None:
    """What the product promises at ``now``."""
    row, chunks = job.rows(now)
    finished = [chunk for chunk in chunks if chunk.status is ChunkStatus.COMPLETED]
    return promise(
        Moment(
            job=row,
            kind=kind,
            running=[chunk for chunk in chunks if chunk.status is ChunkStatus.PROCESSING],
            finished=finished[-RECENT_CHUNKS:],
            pending=[chunk.expected_cost for chunk in chunks if chunk.status is ChunkStatus.PENDING],
            slots=job.at_work(now),
        )
    )


def learned(kind: Kind, job: TimedJob) -> Kind:
    """The kind after one more job: what was promised as its chunks started and ended is in its history."""
    moments = sorted({moment for chunk in job.chunks for moment in (chunk.start + 0.2, chunk.end)} | {job.merge_start})
    promises = [
        made for moment in moments[:: max(1, len(moments) // 24)] if (made := ours(job, moment, kind)) is not None
    ]
    row, chunks = job.rows(job.end)
    return kind.with_jobs([figures_of(row, chunks, promises)])


def count_linear(job: TimedJob, now: float) -> float | None:
    """Elapsed time per finished chunk times the chunks left: joblib, sidekiq-status, tqdm with smoothing=0."""
    done = len(job.chunk_ends(now))
    return now / done * (len(job.chunks) - done) if done else None


def tqdm_ema(job: TimedJob, now: float, smoothing: float = 0.3) -> float | None:
    """An exponential moving average of the time between finished chunks, bias-corrected: tqdm's default."""
    ends = job.chunk_ends(now)
    if not ends:
        return None
    average = 0.0
    for before, end in zip([0.0, *ends], ends, strict=False):
        average = smoothing * (end - before) + (1 - smoothing) * average
    return average / (1 - (1 - smoothing) ** len(ends)) * (len(job.chunks) - len(ends))


def rich_window(job: TimedJob, now: float, window: float = 30.0) -> float | None:
    """The speed over the last 30 s: rich."""
    ends = job.chunk_ends(now)
    recent = [end for end in ends if end >= now - window]
    if len(recent) < 2:
        return None
    return (recent[-1] - recent[0]) / (len(recent) - 1) * (len(job.chunks) - len(ends))


def pages_linear(job: TimedJob, now: float) -> float | None:
    """Elapsed time per finished page times the pages left, with the pages of running chunks counted."""
    row, _ = job.rows(now)
    return now / row.pages_done * (row.pages_total - row.pages_done) if row.pages_done else None


PEERS: Mapping[str, Callable[[TimedJob, float], float | None]] = {
    "count-linear": count_linear,
    "tqdm EMA": tqdm_ema,
    "rich window": rich_window,
    "pages-linear": pages_linear,
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """How an estimator did on one job, or on the jobs of one scenario."""

    error: float
    silent: float
    held: float = float("nan")
    width: float = float("nan")
    jumps: float = float("nan")

    @classmethod
    def over(cls, scores: Sequence[Score]) -> Score:
        """The median error and width of jobs, and the mean of the shares."""
        return cls(
            error=statistics.median(score.error for score in scores),
            silent=statistics.fmean(score.silent for score in scores),
            held=statistics.fmean(score.held for score in scores),
            width=statistics.median(score.width for score in scores),
            jumps=statistics.fmean(score.jumps for score in scores),
        )


def score_peer(job: TimedJob, peer: Callable[[TimedJob, float], float | None]) -> Score:
    """A peer gives one number, so it holds nothing."""
    guesses = [(peer(job, share * job.end), (1 - share) * job.end) for share in MOMENTS]
    made = [abs(guess - actual) / actual for guess, actual in guesses if guess is not None]
    return Score(error=statistics.median(made or [1.0]), silent=1 - len(made) / len(guesses))


def score_ours(job: TimedJob, kind: Kind, *, frames: bool = False) -> Score:
    """Ours gives an interval too.

    :param frames: look at every second of the job for jumps, as a stream would show them.
    """
    moments = {share * job.end: (1 - share) * job.end for share in MOMENTS}
    times = sorted({*moments, *(range(int(job.end)) if frames else ())})
    shown = list(_shown(job, kind, times))
    made = [(eta, moments[now]) for now, eta in shown if now in moments]
    if not made:
        return Score(error=1.0, silent=1.0, held=0.0, width=0.0, jumps=0.0)
    return Score(
        error=statistics.median(abs(eta.finish_at - job.end) / actual for eta, actual in made),
        silent=1 - len(made) / len(MOMENTS),
        held=statistics.fmean(eta.earliest <= job.end <= eta.latest for eta, _ in made),
        width=statistics.median((eta.latest - eta.earliest) / actual for eta, actual in made),
        jumps=_jumps(job, [each for each in shown if each[0] not in moments]) if frames else float("nan"),
    )


def _shown(job: TimedJob, kind: Kind, times: Iterable[float]) -> Iterator[tuple[float, Eta]]:
    """What a reader is shown at these times."""
    before = None
    for now in times:
        if (found := ours(job, now, kind)) is not None:
            eta = steady(found.shown, before, now=now)
            before = Shown(eta.finish_at, now)
            yield now, eta


def _jumps(job: TimedJob, frames: Sequence[tuple[float, Eta]]) -> float:
    """The share of frames, one a second, that move the finish by more than a quarter of the time that remains."""
    jumped = [
        abs(eta.finish_at - before.finish_at) > 0.25 * max(1.0, job.end - now)
        for (_, before), (now, eta) in pairwise(frames)
    ]
    return statistics.fmean(jumped) if jumped else 0.0


# --- Simulated --------------------------------------------------------------------------------------------------------


def simulated(jobs: int, past: int, seed: int) -> None:
    """Score every scenario, and print the tables."""
    variants: dict[str, dict[str, Score]] = {}
    for name, scenario in SCENARIOS.items():
        rng = random.Random(f"{seed} {name}")
        scores: dict[str, list[Score]] = {}
        for _ in range(KINDS):
            share = rng.uniform(*scenario.merge_share)
            taught = [simulate(scenario, rng, merge_share=share) for _ in range(past)]
            asked = [simulate(scenario, rng, merge_share=share) for _ in range(max(1, jobs // KINDS))]
            for label, with_costs in (("", False), (", costs known", True)):
                kind = Kind()
                for job in taught:
                    kind = learned(kind, job if with_costs else job.without_costs())
                for job in asked:
                    job = job if with_costs else job.without_costs()
                    scores.setdefault(f"no past job{label}", []).append(score_ours(job, Kind()))
                    scores.setdefault(f"{past} past jobs{label}", []).append(score_ours(job, kind))
            for label, peer in PEERS.items():
                scores.setdefault(label, []).extend(score_peer(job, peer) for job in asked)
        for label, found in scores.items():
            variants.setdefault(label, {})[name] = Score.over(found)
    print(f"simulated: {jobs} jobs per scenario, {KINDS} kinds each, seed {seed}")
    for figure in ("error", "silent", "held", "width"):
        rows = {
            label: [getattr(score, figure) for score in row.values()]
            for label, row in variants.items()
            if figure in ("error", "silent") or label not in PEERS
        }
        _table(figure, list(SCENARIOS), rows)


# --- Recorded ---------------------------------------------------------------------------------------------------------

#: File of a recording, without its page range → document of the corpus.
_WHERE = ("big", "features", "scans")


def costs_from(corpus: Path | None) -> Callable[[str, str, Sequence[int]], Sequence[float] | None]:
    """What the service's preflight foretells of a document of the corpus: ``NAME_FIRST_LAST.pdf`` is a cut of it."""
    weights: dict[str, object] = {}

    def costs_of(file: str, mode: str, sizes: Sequence[int]) -> Sequence[float] | None:
        from tasks.pdf.costs import PageWeight, page_costs

        name, _, cut = file.removesuffix(".pdf").partition("_")
        path = next((path for room in _WHERE if corpus and (path := corpus / room / f"{name}.pdf").exists()), None)
        if path is None or not cut.replace("_", "").isdigit():
            return None
        first, last = map(int, cut.split("_"))
        if name not in weights:
            weights[name] = _weigh(path)
        of_document = weights[name]
        assert isinstance(of_document, list)
        cut_out: list[PageWeight] = of_document[first:last]
        pages = page_costs(cut_out, keeps_text=mode != "force")
        costs, place = [], 0
        for size in sizes:
            costs.append(sum(pages[place : place + size]))
            place += size
        return costs

    return costs_of


def _weigh(path: Path) -> list[object]:
    import tempfile

    from tasks.pdf.preflight import check

    with tempfile.TemporaryDirectory() as scratch:
        return list(check(path, scratch=Path(scratch)).weights)


def real(path: Path, corpus: Path | None) -> None:
    """Score recorded jobs, each with what the jobs of other documents taught, and print a line for each."""
    found = list(recorded(path, costs_from(corpus)))
    scored: list[tuple[Recording, Score, Score]] = []
    print(f"\nrecorded: {len(found)} jobs; each estimated with what jobs of other documents taught")
    print(f"{'':34}{'no past job':>16}{'calibrated on the others':>50}")
    print(f"{'file':24}{'':10}{'error':>8}{'held':>8}{'error':>10}{'held':>8}{'width':>8}{'silent':>8}{'jumps':>8}")
    for recording in found:
        kind = Kind()
        for other in found:
            if other.document != recording.document:
                kind = learned(kind, other.job)
        alone, calibrated = score_ours(recording.job, Kind()), score_ours(recording.job, kind, frames=True)
        scored.append((recording, alone, calibrated))
        print(
            f"{recording.file:24}{recording.circumstance:10}{alone.error:8.3f}{alone.held:8.2f}"
            f"{calibrated.error:10.3f}{calibrated.held:8.2f}{calibrated.width:8.2f}{calibrated.silent:8.2f}"
            f"{calibrated.jumps:8.3f}"
        )
    for circumstance in (*dict.fromkeys(recording.circumstance for recording in found), "all"):
        of_it = [each for each in scored if circumstance in (each[0].circumstance, "all")]
        before, after = Score.over([each[1] for each in of_it]), Score.over([each[2] for each in of_it])
        print(
            f"{circumstance:34}{before.error:8.3f}{before.held:8.2f}{after.error:10.3f}{after.held:8.2f}"
            f"{after.width:8.2f}{after.silent:8.2f}{after.jumps:8.3f}"
        )


def _table(title: str, columns: Iterable[str], rows: Mapping[str, Sequence[float]]) -> None:
    print(f"\n{title:26}" + "".join(f"{name:>13}" for name in columns) + f"{'mean':>13}")
    for name, values in rows.items():
        print(f"{name:26}" + "".join(f"{value:13.3f}" for value in [*values, statistics.fmean(values)]))


def main() -> None:
    """Read the arguments, then print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=30, help="simulated jobs per scenario")
    parser.add_argument("--past", type=int, default=20, help="jobs of a kind that were learned from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recordings", type=Path, help="recorded jobs, one JSON object a line")
    parser.add_argument("--corpus", type=Path, help="where the recorded documents are, for what they foretell")
    given = parser.parse_args()
    if given.recordings:
        real(given.recordings, given.corpus)
    if given.jobs:
        simulated(given.jobs, given.past, given.seed)


if __name__ == "__main__":
    main()
