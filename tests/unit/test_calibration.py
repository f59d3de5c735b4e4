"""Promises that are corrected by what past ones were worth."""

from __future__ import annotations

import random
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_progress_ext.calibration import Correction, Model, Outcome, Phase, Promise, corrections, phase_of
from celery_progress_ext.eta import Eta

NOW = 1_000_000.0
UNCORRECTED = Eta(finish_at=NOW + 100, earliest=NOW + 80, latest=NOW + 130)


def promise(phase: Phase = Phase.LATE, corrected: Correction | None = None) -> Promise:
    """100 s, 80 to 130."""
    shown = UNCORRECTED if corrected is None else corrected.of(UNCORRECTED, NOW)
    return Promise(shown=shown, model=Model.of(phase, UNCORRECTED, NOW))


def outcomes(misses: list[float], corrected: Correction | None = None) -> list[Outcome]:
    """Of promises of 100 s that took ``100 * exp(miss)``."""
    return [Outcome.of(promise(corrected=corrected), ended=NOW + 100 * exp(miss)) for miss in misses]


@pytest.mark.parametrize(
    ("stands", "phase"),
    [
        ({"started": False, "merging": False, "share": 0.0}, Phase.WAITING),
        ({"started": True, "merging": False, "share": 0.0}, Phase.BEGUN),
        ({"started": True, "merging": False, "share": 0.05}, Phase.EARLY),
        ({"started": True, "merging": False, "share": 0.79}, Phase.SECOND_HALF),
        ({"started": True, "merging": False, "share": 1.0}, Phase.LATE),
        ({"started": True, "merging": True, "share": 1.0}, Phase.MERGING),
    ],
)
def test_phases(stands: dict[str, bool | float], phase: Phase) -> None:
    """What is done of the chunks' work decides, and then the merge."""
    assert phase_of(**stands) is phase  # type: ignore[arg-type]


def test_an_outcome_says_what_the_promise_was_worth() -> None:
    """100 s were promised, between 80 and 130; it took 160."""
    outcome = Outcome.of(promise(), ended=NOW + 160)
    assert (outcome.error, outcome.held) == (pytest.approx(60 / 160), False)
    assert outcome.width == pytest.approx(50 / 160)
    assert Outcome.of(promise(), ended=NOW + 90).held


def test_what_is_always_missed_is_shifted() -> None:
    """Jobs that take twice as long as was said are said to take about twice as long."""
    correction = corrections(outcomes([0.69] * 100))[Phase.LATE]
    assert correction.of(UNCORRECTED, NOW).finish_at - NOW == pytest.approx(190, rel=0.1)


@pytest.mark.parametrize("spread", [0.05, 0.3, 0.8])
def test_eight_in_ten_of_the_next_promises_hold(spread: float) -> None:
    """Whatever the model said of its own width: 200 promises taught, 2,000 others are looked at."""
    rng = random.Random(1)
    correction = corrections(outcomes([rng.gauss(0.1, spread) for _ in range(200)]))[Phase.LATE]
    asked = outcomes([rng.gauss(0.1, spread) for _ in range(2_000)], correction)
    assert 0.75 < sum(outcome.held for outcome in asked) / len(asked) < 0.92


def test_a_few_outcomes_change_little() -> None:
    """One job that took thrice as long is no rule."""
    correction = corrections(outcomes([1.1]))[Phase.LATE]
    assert correction.shift < 0.15
    assert correction.high < 2


def test_intervals_that_keep_missing_become_wider() -> None:
    """The level adapts to what was shown: the same misses, of promises that held and of others that did not."""
    misses = [0.2, -0.2] * 40
    held, missed = outcomes(misses), outcomes(misses, Correction(low=0.1, high=0.1))
    assert corrections(missed)[Phase.LATE].high >= corrections(held)[Phase.LATE].high
    assert not any(outcome.held for outcome in missed)


def test_phases_are_corrected_each_by_itself() -> None:
    """What merges taught says nothing of the first pages."""
    taught = [Outcome.of(promise(Phase.MERGING), ended=NOW + 300)] * 50
    assert set(corrections(taught)) == {Phase.MERGING}


@given(
    st.lists(st.floats(-3, 3), max_size=60),
    st.floats(0.001, 1e6),
    st.floats(0, 1),
    st.floats(0, 1e6),
)
def test_a_corrected_promise_lies_in_its_own_interval(
    misses: list[float], left: float, early: float, late: float
) -> None:
    """``now <= earliest <= finish_at <= latest``, whatever was learned."""
    eta = Eta(finish_at=NOW + left, earliest=NOW + left * early, latest=NOW + left + late)
    shown = corrections(outcomes(misses)).get(Phase.LATE, Correction()).of(eta, NOW)
    assert NOW <= shown.earliest <= shown.finish_at <= shown.latest


def test_what_is_stored_comes_back() -> None:
    """Models and outcomes are kept as short JSON."""
    model, outcome = promise().model, Outcome.of(promise(), ended=NOW + 160)
    assert Model.from_json(model.to_json()).remaining == pytest.approx(model.remaining, abs=1e-3)
    assert Outcome.from_json(outcome.to_json()).held is outcome.held
    with pytest.raises(ValueError, match="not enough"):
        Model.from_json([])
