"""What is learned from past jobs for the next one of their kind: same body, same header, same unit.

A kind keeps figures of its last ``KEPT_JOBS`` jobs. What an estimate needs of them (``Experience``, the merge, the
corrections) is made from all of them when they are read; nothing is kept twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log, sqrt
from statistics import fmean, median
from typing import Any

from celery_progress_ext.calibration import UNCORRECTED, Correction, Outcome, Phase, corrections
from celery_progress_ext.eta import Eta, Merge
from celery_progress_ext.pace import Experience, Timing, sight, start_ups_of, within

#: Jobs of a kind whose figures are kept.
KEPT_JOBS = 200
#: Of these, the last so many say what pace, start-up and merge are like now.
RECENT_JOBS = 30
#: Promises of a job that are kept for each phase.
KEPT_OUTCOMES = 2
_NAME_LIMIT = 200

#: Before any job of the kind is known: jobs differ by so much in ln(pace), with the weight of so many jobs.
_PACE_SPREAD, _PACE_JOBS = 0.5, 2.0
#: A merge reads and writes what the chunks made, and has a start-up of its own: share and seconds, as long as nothing
#: else is known, and how little that says.
_MERGE_SHARE, _MERGE_SECONDS, _MERGE_DOUBT = 0.01, 0.3, 1.3
#: The least spread of ln(merge) that is believed.
_MERGE_SPREAD = 0.15


def kind_of(*, body: str, headers: Iterable[str], unit: str, label: str | None = None) -> str:
    """The name of a kind of jobs: body's task, header's tasks, unit, and what a caller adds.

    It is at most 200 characters long: a digest stands for the end of a longer one.
    """
    parts = [body, "+".join(sorted(set(headers))), unit, *([] if label is None else [label])]
    name = " ".join(part.replace(" ", "_") for part in parts)
    if len(name) <= _NAME_LIMIT:
        return name
    return f"{name[: _NAME_LIMIT - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFigures:
    """One finished job. Times are seconds.

    :ivar pace: the median of its chunks' ln(seconds per unit of cost); None where nothing was timed.
    :ivar warm, cold: start-ups, of later chunks and of the first; None where no chunk reported its pages.
    :ivar work: what its chunks took together.
    :ivar merge: what its merge took; None where it is not known, as after a retry.
    :ivar slots: how many chunks were at work at once.
    """

    pace: float | None
    warm: float | None
    cold: float | None
    work: float
    merge: float | None
    slots: int
    outcomes: tuple[Outcome, ...] = ()

    @classmethod
    def of(
        cls, timings: Sequence[Timing], *, work: float, merge: float | None, slots: int, outcomes: Sequence[Outcome]
    ) -> JobFigures:
        """From the timings of its finished chunks."""
        ordered = [timing.sane() for timing in timings]
        warm, cold = start_ups_of(ordered, slots=slots)
        typical = median(warm) if warm else 0.0
        paces = [seen.log_pace for timing in ordered if (seen := sight(timing, start_up=typical)) is not None]
        return cls(
            pace=median(paces) if paces else None,
            warm=median(warm) if warm else None,
            cold=median(cold) if cold else None,
            work=work,
            merge=merge,
            slots=slots,
            outcomes=tuple(_some_of_each_phase(outcomes)),
        )

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        figures = {name: getattr(self, name) for name in ("pace", "warm", "cold", "work", "merge")}
        rounded = {name: None if value is None else round(value, 4) for name, value in figures.items()}
        return {**rounded, "slots": self.slots, "outcomes": [outcome.to_json() for outcome in self.outcomes]}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> JobFigures:
        """:raises (KeyError, ValueError): for what :meth:`to_json` did not make."""
        return cls(
            **{name: stored[name] for name in ("pace", "warm", "cold", "work", "merge", "slots")},
            outcomes=tuple(Outcome.from_json(outcome) for outcome in stored["outcomes"]),
        )


def _some_of_each_phase(outcomes: Sequence[Outcome]) -> Iterable[Outcome]:
    """At most ``KEPT_OUTCOMES`` of each phase, evenly chosen, so that no job speaks louder than another."""
    for phase in Phase:
        of_phase = [outcome for outcome in outcomes if outcome.phase is phase]
        if len(of_phase) <= KEPT_OUTCOMES:
            yield from of_phase
        else:
            yield from (of_phase[(2 * n + 1) * len(of_phase) // (2 * KEPT_OUTCOMES)] for n in range(KEPT_OUTCOMES))


@dataclass(frozen=True)
class Kind:
    """What the past jobs of a kind say, oldest first."""

    jobs: tuple[JobFigures, ...] = field(default=())

    def with_jobs(self, more: Iterable[JobFigures]) -> Kind:
        """With jobs that ended since; the oldest go."""
        return Kind((*self.jobs, *more)[-KEPT_JOBS:])

    @cached_property
    def experience(self) -> Experience | None:
        """What its jobs say of pace and start-up; None before the first of them."""
        recent = self.jobs[-RECENT_JOBS:]
        paces = [job.pace for job in recent if job.pace is not None]
        if not paces:
            return None
        mean = fmean(paces)
        squares = sum((pace - mean) ** 2 for pace in paces)
        return Experience(
            pace=mean,
            pace_spread=sqrt((_PACE_JOBS * _PACE_SPREAD**2 + squares) / (_PACE_JOBS + len(paces) - 1)),
            warm=median([job.warm for job in recent if job.warm is not None] or [0.0]),
            cold=median([job.cold for job in recent if job.cold is not None] or [0.0]),
        )

    def merge(self, work: float) -> Merge:
        """What the merge takes after so many seconds of work in the chunks."""
        fixed, share, spread = self._merge
        return Merge(seconds=fixed + share * max(0.0, work), spread=spread)

    def merge_share(self, work: float | None = None) -> float:
        """Which part of a job's whole work its merge is, 0 to 0.9."""
        typical = median([job.work for job in self.jobs[-RECENT_JOBS:]] or [30.0]) if work is None else work
        merge = self.merge(typical).seconds
        return within(merge / max(merge + typical, 1e-9), 0.0, 0.9)

    @cached_property
    def _merge(self) -> tuple[float, float, float]:
        """Seconds that every merge takes, the share of the chunks' work on top, and the spread of ln about that."""
        known = [(job.work, job.merge) for job in self.jobs[-RECENT_JOBS:] if job.merge is not None and job.work > 0]
        if not known:
            return _MERGE_SECONDS, _MERGE_SHARE, _MERGE_DOUBT
        share = max(0.0, _slope(known))
        fixed = max(0.0, median(merge - share * work for work, merge in known))
        # The ratio decides where a line through the points would begin below nothing.
        if fixed == 0.0:
            share = median(merge / work for work, merge in known)
        logs = [log(max(merge, 1e-3) / max(fixed + share * work, 1e-3)) for work, merge in known]
        squares = sum(within(one, -3.0, 3.0) ** 2 for one in logs)
        spread = (
            sqrt((_MERGE_DOUBT**2 + squares) / (1 + 2 * len(known) - 1))
            if len(known) < 4
            else sqrt(squares / len(known))
        )
        return fixed, share, max(_MERGE_SPREAD, spread)

    @cached_property
    def _corrections(self) -> Mapping[Phase, Correction]:
        return corrections(outcome for job in self.jobs for outcome in job.outcomes)

    def correct(self, phase: Phase, eta: Eta, now: float) -> Eta:
        """An estimate, corrected by what those of this phase turned out to be worth."""
        return self._corrections.get(phase, UNCORRECTED).of(eta, now)

    def scores(self) -> Mapping[Phase, Score]:
        """How right the estimates that were shown have been, by phase."""
        found: dict[Phase, list[Outcome]] = {}
        for job in self.jobs:
            for outcome in job.outcomes:
                found.setdefault(outcome.phase, []).append(outcome)
        return {phase: Score.of(found[phase]) for phase in Phase if phase in found}

    def to_json(self) -> list[dict[str, Any]]:
        """As it is stored."""
        return [job.to_json() for job in self.jobs]

    @classmethod
    def from_json(cls, stored: Sequence[Mapping[str, Any]]) -> Kind:
        """:raises (KeyError, ValueError): for what :meth:`to_json` did not make."""
        return cls(tuple(JobFigures.from_json(job) for job in stored))


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How right past estimates have been.

    :ivar promises: how many were looked at.
    :ivar error: the median of |promised - actual| / actual remaining time.
    :ivar held: the share of intervals that held the end; 0.8 is what they promise.
    :ivar width: the median width of the interval, over the actual remaining time.
    """

    promises: int
    error: float
    held: float
    width: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Score:
        """Of at least one outcome."""
        return cls(
            promises=len(outcomes),
            error=median(outcome.error for outcome in outcomes),
            held=fmean(outcome.held for outcome in outcomes),
            width=median(outcome.width for outcome in outcomes),
        )


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen's: the median slope between points that are far enough apart to have one; 0 without."""
    least = 0.2 * max(x for x, _ in points)
    slopes = [
        (y2 - y1) / (x2 - x1)
        for place, (x1, y1) in enumerate(points)
        for x2, y2 in points[place + 1 :]
        if abs(x2 - x1) > least
    ]
    if not slopes:
        # All jobs are alike: what a merge takes is a share of them as well as a number of seconds.
        return median(y / x for x, y in points)
    return median(slopes)
