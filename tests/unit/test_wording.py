"""Times as people say them: in the terminal, in the CLI and on the page alike."""

from __future__ import annotations

import base64
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_progress_ext.eta import Eta
from celery_progress_ext.wording import LATE, PRECISIONS, duration, finish_text, precision

_WORDING_JS = Path(__file__).parents[2] / "celery_progress_ext" / "static" / "wording.js"


@pytest.fixture(autouse=True, params=["UTC", "Asia/Kolkata", "America/New_York"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Local time, also where it is half an hour off."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def _at(text: str) -> float:
    """A local time of one day."""
    return time.mktime(time.strptime(f"2026-03-03 {text}", "%Y-%m-%d %H:%M:%S"))


def _text(now: str, finish: str, earliest: str, latest: str) -> str:
    return finish_text(Eta(finish_at=_at(finish), earliest=_at(earliest), latest=_at(latest)), _at(now))


@pytest.mark.parametrize(
    ("now", "finish", "earliest", "latest", "expected"),
    [
        ("14:00:00", "14:31:10", "14:22:00", "14:48:30", "about 14:30, 14:20-14:50 · 30 min left"),
        ("14:00:00", "14:03:10", "14:02:40", "14:05:00", "about 14:03, 14:02-14:05 · 3 min left"),
        ("14:00:00", "14:00:42", "14:00:36", "14:00:51", "about 14:00:40, 14:00:35-14:00:55 · 40 s left"),
        ("14:00:00", "14:00:42", "14:00:42", "14:00:42", "about 14:00:42 · 42 s left"),
        # Past its beginning: what is left begins now.
        ("14:31:00", "14:29:00", "14:20:00", "14:48:30", "about 14:40, 14:40-14:50 · less than 10 min left"),
        ("14:48:30", "14:31:00", "14:20:00", "14:48:30", LATE),
        ("09:00:00", "19:00:00", "12:00:00", "23:30:00", "about 18:00, 12:00-Wed 4 Mar 00:00 · 9 h left"),
        ("23:50:00", "23:59:59", "23:57:00", "23:59:59", "about Wed 4 Mar 00:00, Tue 3 Mar 23:57-00:00 · 10 min left"),
    ],
)
def test_a_finish_time_is_said_at_the_precision_of_its_interval(
    now: str, finish: str, earliest: str, latest: str, expected: str
) -> None:
    """Inside it, and never in the past."""
    assert _text(now, finish, earliest, latest) == expected


_MOMENTS = st.floats(1.7e9, 1.8e9)
_SPANS = st.floats(0.0, 200_000.0)


@given(_MOMENTS, st.floats(-90_000.0, 200_000.0), _SPANS, _SPANS)
def test_the_estimate_lies_inside_its_interval_and_none_of_it_in_the_past(
    now: float, ahead: float, below: float, above: float
) -> None:
    """As it is read: the times are taken from the text again, in UTC, where the day does not change."""
    finish = now + ahead
    text = finish_text(Eta(finish_at=finish, earliest=finish - below, latest=finish + above), now)
    if text == LATE:
        assert finish + above <= now
        return
    times = re.findall(r"(\w+ \d+ \w+ )?(\d\d:\d\d(?::\d\d)?)", text)
    assert len({len(each) for _day, each in times}) == 1
    if not any(day for day, _ in times):
        said = [each for _day, each in times]
        today = time.strftime("%H:%M:%S" if len(said[0]) > 5 else "%H:%M", time.localtime(now))
        best, low, high = said if len(said) == 3 else (said[0], said[0], said[0])
        assert today <= low <= best <= high
    assert "-" not in text.split(" · ")[1]


@given(st.floats(0.0, 1e6))
def test_at_least_two_steps_fit_into_an_interval(width: float) -> None:
    """But for one that is shorter than two seconds."""
    step = precision(width)
    assert step in PRECISIONS
    assert step == 1 or 2 * step <= width


def test_the_page_says_the_same(chromium: Any, zone: str) -> None:
    """The page's module in a browser, on a table of cases."""
    now = _at("14:07:31")
    spans = [0.0, 0.4, 1.0, 7.3, 29.5, 89.6, 90.0, 601.0, 3000.0, 7777.0, 40_000.0, 100_000.0, 400_000.0]
    cases = [
        (now + ahead, now + ahead - below, now + ahead + above, now)
        for ahead, below, above in itertools.product([-30.0, 0.0, *spans[2:]], spans[::2], spans[1::3])
    ]
    numbers = [*spans, 0.5, 1.5, 59.5, 89.5, 3599.9, 86_399.0, 90_000.0, 1e6]
    module = base64.b64encode(_WORDING_JS.read_bytes()).decode()
    context = chromium.new_context(timezone_id=zone)
    try:
        finishes, durations, steps = context.new_page().evaluate(
            """async ([module, cases, numbers]) => {
              const wording = await import(`data:text/javascript;base64,${module}`);
              return [
                cases.map((each) => wording.finishText(...each)),
                numbers.map(wording.duration),
                wording.PRECISIONS,
              ];
            }""",
            [module, cases, numbers],
        )
    finally:
        context.close()
    mine = [finish_text(Eta(finish_at=case[0], earliest=case[1], latest=case[2]), case[3]) for case in cases]
    assert list(zip(cases, mine, strict=True)) == list(zip(cases, finishes, strict=True))
    assert [duration(each) for each in numbers] == durations
    assert list(PRECISIONS) == steps
