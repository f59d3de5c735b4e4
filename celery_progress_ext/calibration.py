"""What estimates turned out to be worth, and the correction that follows for the next ones.

Split conformal prediction, a phase of a job at a time: of past promises it is known by how much they missed, in units
of the half width that the model gave them, and the next interval is widened or narrowed until eight in ten of the past
ones would have held. Until there are enough of them, the model's own quantiles count as observations. The level that is
asked for adapts to how often the intervals that were shown held, so that the share comes out right when jobs change.

Sources: V. Vovk, A. Gammerman and G. Shafer, Algorithmic learning in a random world (2005); J. Lei and others,
Distribution-free predictive inference for regression (2018), for residuals in units of a model's own spread; I. Gibbs
and E. Candès, Adaptive conformal inference under distribution shift (2021), for the level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, exp, isfinite, log
from statistics import NormalDist, median

from celery_progress_ext.eta import Eta

#: The share of intervals that are to hold.
LEVEL = 0.8
#: What is aimed at for that: promises are learned from as chunks start and end, and in between they are a little worse.
_AIM = 0.83
#: How far the level moves with a promise that was not kept.
_STEP = 0.01
_LOOSEST, _TIGHTEST = 0.3, 0.1
#: As many of the model's own quantiles count as observations of each phase.
_OWN = 15
_OWN_SCORES = [
    NormalDist().inv_cdf((place + 0.5) / _OWN) / NormalDist().inv_cdf((1 + LEVEL) / 2) for place in range(_OWN)
]
#: Bounds of a correction, so that a few accidents make no promise useless.
_NARROWEST, _WIDEST, _MAX_SHIFT = 0.3, 6.0, 1.0
#: The least half width that a promise is taken to have had, in ln.
_LEAST = 0.02


class Phase(StrEnum):
    """Where a job stands, as far as estimates are alike there."""

    WAITING = "waiting"
    BEGUN = "0-5 %"
    EARLY = "5-20 %"
    FIRST_HALF = "20-50 %"
    SECOND_HALF = "50-80 %"
    LATE = "80-100 %"
    MERGING = "merging"


_UP_TO = ((0.05, Phase.BEGUN), (0.2, Phase.EARLY), (0.5, Phase.FIRST_HALF), (0.8, Phase.SECOND_HALF))


def phase_of(*, started: bool, merging: bool, share: float) -> Phase:
    """The phase of a job.

    :param share: how much of its chunks' work is done, 0 to 1.
    """
    if merging:
        return Phase.MERGING
    if not started:
        return Phase.WAITING
    return next((phase for bound, phase in _UP_TO if share < bound), Phase.LATE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """An estimate as the model had it, before any correction.

    :ivar at: when it was made, in seconds since the epoch, on the clock of its job.
    :ivar remaining: seconds to the end.
    :ivar low, high: how far the interval reaches to both sides, in ln of the remaining seconds.
    """

    phase: Phase
    at: float
    remaining: float
    low: float
    high: float

    @classmethod
    def of(cls, phase: Phase, eta: Eta, at: float) -> Model:
        """From an estimate that is not corrected."""
        remaining = max(eta.finish_at - at, 1e-3)
        return cls(
            phase=phase,
            at=at,
            remaining=remaining,
            low=max(_LEAST, log(remaining / max(eta.earliest - at, remaining * 1e-3))),
            high=max(_LEAST, log(max(eta.latest - at, remaining) / remaining)),
        )

    def to_json(self) -> list[object]:
        """Phase, when, remaining seconds, low and high."""
        rounded = (round(self.at, 3), round(self.remaining, 3), round(self.low, 4), round(self.high, 4))
        return [self.phase.value, *rounded]

    @classmethod
    def from_json(cls, stored: Sequence[object]) -> Model:
        """:raises ValueError: for what :meth:`to_json` did not make."""
        phase, at, remaining, low, high = stored
        return cls(
            phase=Phase(str(phase)),
            at=_number(at),
            remaining=max(1e-3, _number(remaining)),
            low=max(_LEAST, _number(low)),
            high=max(_LEAST, _number(high)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """A finish time as it was shown, and the model's own behind it."""

    shown: Eta
    model: Model


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one promise.

    :ivar miss: ln(actual / estimated remaining seconds), of the model.
    :ivar low, high: the half widths that the model gave, in ln.
    :ivar error: |promised - actual| / actual remaining seconds, of what was shown.
    :ivar width: of what was shown, over the actual remaining seconds.
    :ivar held: whether the interval that was shown held the end.
    """

    phase: Phase
    miss: float
    low: float
    high: float
    error: float
    width: float
    held: bool

    @classmethod
    def of(cls, promise: Promise, *, ended: float) -> Outcome:
        """Of a promise whose job ended then, in seconds since the epoch on the clock of the promise."""
        model, shown = promise.model, promise.shown
        actual = max(ended - model.at, 1e-3)
        return cls(
            phase=model.phase,
            miss=log(actual / model.remaining),
            low=model.low,
            high=model.high,
            error=abs(shown.finish_at - ended) / actual,
            width=(shown.latest - shown.earliest) / actual,
            held=shown.earliest <= ended <= shown.latest,
        )

    def to_json(self) -> list[object]:
        """In the order of the fields, rounded."""
        numbers = (self.miss, self.low, self.high, self.error, self.width)
        return [self.phase.value, *(round(number, 4) for number in numbers), int(self.held)]

    @classmethod
    def from_json(cls, stored: Sequence[object]) -> Outcome:
        """:raises ValueError: for what :meth:`to_json` did not make."""
        phase, miss, low, high, error, width, held = stored
        return cls(
            phase=Phase(str(phase)),
            miss=_number(miss),
            low=max(_LEAST, _number(low)),
            high=max(_LEAST, _number(high)),
            error=_number(error),
            width=_number(width),
            held=bool(held),
        )


def _number(stored: object) -> float:
    number = float(str(stored))
    if not isfinite(number):
        raise ValueError(f"{stored} is no finite number")
    return number


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    """What is made of an estimate of one phase.

    :ivar shift: added to ln of the remaining seconds.
    :ivar low, high: factors of the half widths.
    """

    shift: float = 0.0
    low: float = 1.0
    high: float = 1.0

    def of(self, eta: Eta, now: float) -> Eta:
        """The corrected estimate; ``now <= earliest <= finish_at <= latest`` holds as before."""
        remaining = eta.finish_at - now
        if remaining <= 0:
            return eta
        model = Model.of(Phase.BEGUN, eta, now)
        corrected = remaining * exp(self.shift)
        return Eta(
            finish_at=now + corrected,
            earliest=now + corrected * exp(-min(self.low * model.low, 30.0)),
            latest=now + corrected * exp(min(self.high * model.high, 10.0)),
        )


#: Where no job of the kind has been in the phase. The model alone is too sure: on simulated jobs without a past its
#: interval held in two of three moments (``python -m bench.eta``), rather on the late side.
UNCORRECTED = Correction(low=1.25, high=1.4)


def corrections(outcomes: Iterable[Outcome]) -> Mapping[Phase, Correction]:
    """The correction of each phase, from outcomes in the order in which their jobs ended."""
    by_phase: dict[Phase, list[Outcome]] = {}
    for outcome in outcomes:
        by_phase.setdefault(outcome.phase, []).append(outcome)
    return {phase: _correction(found) for phase, found in by_phase.items()}


def _correction(outcomes: Sequence[Outcome]) -> Correction:
    shrinkage = len(outcomes) / (len(outcomes) + _OWN)
    shift = min(max(median(outcome.miss for outcome in outcomes) * shrinkage, -_MAX_SHIFT), _MAX_SHIFT)
    missed = _missed(outcomes)
    late = [*((outcome.miss - shift) / outcome.high for outcome in outcomes), *_OWN_SCORES]
    early = [*((shift - outcome.miss) / outcome.low for outcome in outcomes), *_OWN_SCORES]
    return Correction(
        shift=shift,
        low=min(max(_quantile(early, 1 - missed / 2), _NARROWEST), _WIDEST),
        high=min(max(_quantile(late, 1 - missed / 2), _NARROWEST), _WIDEST),
    )


def _missed(outcomes: Sequence[Outcome]) -> float:
    """The share of promises that may miss, after each outcome has moved it (Gibbs and Candès, equation 2)."""
    share = 1 - _AIM
    for outcome in outcomes:
        share += _STEP * ((1 - _AIM) - (not outcome.held))
        share = min(max(share, _TIGHTEST), _LOOSEST)
    return share


def _quantile(scores: Sequence[float], probability: float) -> float:
    """Of n scores the ceil(probability * n)-th. The conformal one, of n + 1, would be the largest of few."""
    ordered = sorted(scores)
    return ordered[max(1, ceil(probability * len(ordered))) - 1]
