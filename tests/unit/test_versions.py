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
    monkeypatch.setattr(sys, "argv", ["versions.py", "--cell", "lowest"])
    assert versions.main() == 1
    assert capsys.readouterr().out == "lowest-python3.11: skipped: there is no Python 3.11 here\n"


def test_each_cell_has_a_name_of_its_own_and_a_part_of_it_names_several() -> None:
    """So CI can run them one by one, or a minor of Celery at a time."""
    names = [cell.name for cell in versions.CELLS]
    assert len(set(names)) == len(names)
    assert len([name for name in names if "celery5.4" in name]) == 2


def test_every_release_that_pyproject_allows_has_a_cell() -> None:
    """Each minor of Celery, each major of redis-py, each Python that is claimed."""
    assert {cell.celery for cell in versions.CELLS} == {"5.4", "5.5", "5.6", "5.7"}
    assert {cell.redis.partition(".")[0] for cell in versions.CELLS} == {"5", "6", "7", "8"}
    assert {cell.sqlalchemy for cell in versions.CELLS} == {"2.0", "2.1"}
    assert {cell.python for cell in versions.CELLS} >= set(versions.claimed())


def test_what_a_cell_leaves_out_is_there() -> None:
    """A file that was renamed would be run again, and a pattern that fits nothing says nothing."""
    assert [each for each in versions._NOT_THE_LIBRARY if not list(versions.ROOT.glob(each))] == []
