"""`make versions`: which Pythons are tried."""

from __future__ import annotations

import sys

import pytest

from tests import versions


def test_the_pythons_that_are_tried_are_those_that_are_claimed() -> None:
    """From the classifiers, oldest first, so that the lowest versions run on the oldest."""
    assert versions.claimed()[:3] == ["3.11", "3.12", "3.13"]


def test_a_python_is_found_by_its_version() -> None:
    """The one that runs this is; one that nobody has is not."""
    here = "{}.{}".format(*sys.version_info[:2])
    assert versions.find(here) == sys.executable
    assert versions.find("3.99") is None


def test_a_python_that_is_not_here_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a run in which nothing could be tried is a failure."""
    monkeypatch.setattr(versions, "find", lambda _version: None)
    monkeypatch.setattr(sys, "argv", ["versions.py", "--only", "3.13"])
    assert versions.main() == 1
    assert capsys.readouterr().out == "3.13: skipped: there is no Python 3.13 here\n"
