"""Bars for notebooks and terminals, by tqdm and by rich."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_progress_ext import bars
from celery_progress_ext.exceptions import MissingExtra
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from tests.support.live import make_snapshot


def run() -> Iterator[JobSnapshot]:
    yield make_snapshot(1, work_pct=10.0)
    yield make_snapshot(2, work_pct=55.0, failures_total=1)
    yield make_snapshot(3, work_pct=100.0, status=JobStatus.PARTIAL, stage="Merging", pages_done=100)


@pytest.mark.parametrize("using", [*bars.BARS, None])
def test_a_bar_ends_with_the_job(using: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows the stage, what is done and how it ended; the last snapshot is returned."""
    assert bars.follow(run(), using).version == 3
    shown = "".join(capsys.readouterr())
    assert "Merging" in shown and "100/100 pages" in shown and "PARTIAL" in shown


def test_a_bar_that_is_not_there_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich is always there."""
    with pytest.raises(ValueError, match="tqdm, rich"):
        bars.follow(run(), "alive")
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with pytest.raises(MissingExtra, match="pip install tqdm"):
        bars.follow(run(), "tqdm")
