"""The documentation says what the code says."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path

import celery_progress_ext
from celery_progress_ext.config import Settings

ROOT = Path(__file__).parents[2]


def test_the_state_charts_are_drawn_from_the_tables() -> None:
    """After a change of a table: `python docs/make_state_charts.py`."""
    page = (ROOT / "docs" / "chords.md").read_text()
    assert runpy.run_path(str(ROOT / "docs" / "make_state_charts.py"))["page"](page) == page


def test_every_setting_is_in_the_reference_with_its_default() -> None:
    """One table, complete."""
    reference = (ROOT / "docs" / "reference.md").read_text()
    rows = {
        line.split("|")[1].strip(): line.split("|")[2].strip()
        for line in reference.splitlines()
        if "| `progress_" in line
    }
    for field in fields(Settings):
        shown = rows[f"`progress_{field.name}`"].strip("`")
        if field.default is not None:
            assert shown == (f"{field.default:g}" if isinstance(field.default, float) else str(field.default))


def test_every_public_name_is_in_the_reference() -> None:
    """Each earns its place there."""
    reference = (ROOT / "docs" / "reference.md").read_text()
    assert [name for name in celery_progress_ext.__all__ if name not in reference] == []


def test_every_relative_link_of_the_documentation_leads_somewhere() -> None:
    """Files move, links do not."""
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def _where_is() -> dict[str, str]:
    """CONTRIBUTING's questions, and their answers."""
    lines = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    cells = [line.split("|")[1:3] for line in lines if line.startswith("| … ")]
    return {question.strip(): answer for question, answer in cells}


def test_a_newcomers_questions_are_answered_by_files_that_exist() -> None:
    """At least ten, each with the module where it is decided, and with functions that this module has."""
    questions = _where_is()
    assert len(questions) >= 10
    for answer in questions.values():
        found = re.findall(r"`([\w/*-]+\.(?:py|js))`(?: \(`(\w+)`\))?", answer)
        assert found, answer
        for path, function in found:
            files = [*ROOT.glob(f"celery_progress_ext/{path}"), *ROOT.glob(path), *ROOT.glob(f"tasks/pdf/{path}")]
            assert files, path
            assert function in files[0].read_text(), f"{path} has no {function}"


def test_the_test_support_is_explained() -> None:
    """Each of its modules is named on the page about it."""
    page = (ROOT / "tests" / "README.md").read_text()
    modules = {path.name for path in (ROOT / "tests" / "support").glob("[!_]*.py")}
    assert [name for name in sorted(modules) if name not in page] == []
