"""What past jobs of a kind say of the next one."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest

from celery_progress_ext.calibration import Model, Outcome, Phase, Promise
from celery_progress_ext.eta import Eta
from celery_progress_ext.kinds import KEPT_JOBS, KEPT_OUTCOMES, JobFigures, Kind, kind_of
from celery_progress_ext.pace import Timing

JOB = JobFigures(pace=log(2.0), warm=0.5, cold=4.0, work=100.0, merge=5.0, slots=4)


def outcome(phase: Phase, *, took: float = 100.0) -> Outcome:
    """Of a promise of 100 s."""
    eta = Eta(finish_at=100.0, earliest=80.0, latest=130.0)
    return Outcome.of(Promise(shown=eta, model=Model.of(phase, eta, 0.0)), ended=took)


def test_a_kind_is_named_by_what_its_jobs_do() -> None:
    """Body, header, unit, and what a caller adds; the order of the header's tasks does not count."""
    assert kind_of(body="merge", headers=["ocr"], unit="pages") == "merge ocr pages"
    assert kind_of(body="m", headers=["b", "a", "b"], unit="rows", label="de 300 dpi") == "m a+b rows de_300_dpi"


def test_a_long_name_is_cut_and_stays_one_of_its_own() -> None:
    """A column has 255 characters."""
    names = {kind_of(body="m" * 150, headers=["h" * 150], unit="u", label=label) for label in ("a", "b")}
    assert len(names) == 2
    assert all(len(name) <= 200 for name in names)


def test_nothing_is_known_before_the_first_job() -> None:
    """A merge is then taken to be short, and that is doubted."""
    assert Kind().experience is None
    assert Kind().merge(100.0).spread > 1


def test_experience_is_what_recent_jobs_were_like() -> None:
    """The more jobs agree, the less the next one is expected to differ."""
    one, many = Kind((JOB,)).experience, Kind((JOB,) * 30).experience
    assert one is not None
    assert many is not None
    assert (many.pace, many.warm, many.cold) == (pytest.approx(log(2.0)), 0.5, 4.0)
    assert many.pace_spread < one.pace_spread


@pytest.mark.parametrize(
    ("merges", "work", "seconds"),
    [
        pytest.param([(50, 5), (100, 10), (200, 20)], 400, 40, id="a share of the work"),
        pytest.param([(50, 7), (100, 7), (200, 7)], 400, 7, id="the same for all"),
        pytest.param([(50, 7), (100, 12), (200, 22)], 400, 42, id="some of both"),
        pytest.param([(100, 10), (100, 10), (100, 10)], 50, 5, id="jobs of one size: a share"),
    ],
)
def test_a_merge_takes_what_past_ones_say(merges: list[tuple[float, float]], work: float, seconds: float) -> None:
    """A number of seconds, a share of the chunks' work, or both."""
    kind = Kind(tuple(replace(JOB, work=float(took), merge=float(merge)) for took, merge in merges))
    assert kind.merge(work).seconds == pytest.approx(seconds, rel=0.1)


def test_one_accident_is_no_merge() -> None:
    """A merge that hung for an hour is not what the next one takes."""
    kind = Kind((*[replace(JOB, merge=5.0)] * 6, replace(JOB, merge=3600.0)))
    assert kind.merge(100.0).seconds == pytest.approx(5.0, rel=0.1)


def test_the_oldest_jobs_go() -> None:
    """The row of a kind is bounded, in jobs and in what is kept of each."""
    jobs = [replace(JOB, work=float(number)) for number in range(KEPT_JOBS + 5)]
    assert [job.work for job in Kind().with_jobs(jobs).jobs][:2] == [5.0, 6.0]
    figures = JobFigures.of([], work=1.0, merge=None, slots=1, outcomes=[outcome(Phase.LATE)] * 50)
    assert len(figures.outcomes) == KEPT_OUTCOMES


def test_a_job_s_figures_come_from_its_timings() -> None:
    """Twenty pages a second each, after start-ups of 4 s in the first two chunks and half a second in the others."""
    timings = [
        Timing(
            index=n,
            pages=20,
            cost=20.0,
            done=20,
            elapsed=20.0 + (4.0 if n < 2 else 0.5),
            first=1.0 + (4.0 if n < 2 else 0.5),
        )
        for n in range(6)
    ]
    figures = JobFigures.of(timings, work=130.0, merge=3.0, slots=2, outcomes=[])
    assert (figures.pace, figures.warm, figures.cold) == (pytest.approx(0.0), pytest.approx(0.5), pytest.approx(4.0))


def test_scores_are_published_by_phase() -> None:
    """Only of phases that had promises."""
    kind = Kind((replace(JOB, outcomes=(outcome(Phase.LATE), outcome(Phase.LATE, took=200.0))),))
    assert list(kind.scores()) == [Phase.LATE]
    score = kind.scores()[Phase.LATE]
    assert (score.promises, score.error, score.held) == (2, pytest.approx(0.25), 0.5)


def test_what_is_stored_comes_back() -> None:
    """As JSON."""
    kind = Kind((replace(JOB, outcomes=(outcome(Phase.MERGING),)), replace(JOB, pace=None, merge=None)))
    again = Kind.from_json(kind.to_json())
    assert again.to_json() == kind.to_json()
    assert again.jobs[1].merge is None
