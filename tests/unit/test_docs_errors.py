"""docs/errors.md explains every refusal and every reason of a page, in the words that a person sees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.options import OPTIONS
from tasks.page_results import REASONS, PageStatus
from tasks.pdf.preflight import REFUSALS
from tasks.settings import DPI
from web.job_pages import _NOT_THERE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def _rows(section: str, slug: str) -> list[str]:
    """The rows of docs/errors.md about a slug, in a section."""
    (text,) = re.findall(rf"^## {section}\n(.*?)^## ", (DOCS / "errors.md").read_text(), re.MULTILINE | re.DOTALL)
    return [line for line in text.splitlines() if line.startswith(f"| `{slug}` |")]


@pytest.mark.parametrize("slug", REASONS)
def test_each_reason_is_explained(slug: str) -> None:
    """With its slug and its sentence."""
    clause = re.sub(r"\{seconds[^}]*\}", "120", REASONS[slug].clause).replace("{detail}", "…").replace("{times}", "2")
    (row,) = _rows("Pages", slug)
    assert f"| Page 3 {clause}" in row


@pytest.mark.parametrize("reason", REFUSALS)
def test_each_refusal_is_explained(reason: str) -> None:
    """With the sentence that a person sees."""
    sentence = re.sub(r"\{[^}]*\}", "…", REFUSALS[reason][1])
    (row,) = _rows("Refusals", reason)
    assert f"| {sentence} |" in row


def test_each_answer_about_what_is_there_is_explained() -> None:
    """With its kind and its sentence, as the routes have them."""
    text = (DOCS / "errors.md").read_text()
    sources = [(ROOT / "web" / name).read_text() for name in ("job_pages.py", "results.py", "documents.py")]
    sentences = [each.replace("{page}", "…") for each in _NOT_THERE.values()]
    for source in sources:
        found = re.findall(r'(?:sentence ?= ?|"not-ready", |"page-not-found", )f?"([^"]+)"', source)
        sentences += [re.sub(r"\{[^}]*\}", "…", each) for each in found]
    ours = [each for each in sentences if each != "The result is not in the document store any more."]
    assert len(ours) >= len(_NOT_THERE) + 5
    assert [each for each in ours if f"| {each} |" not in text] == []


def test_each_status_and_option_is_listed() -> None:
    """In docs/ocr.md."""
    text = (DOCS / "ocr.md").read_text()
    assert all(f"| `{status}` |" in text for status in PageStatus)
    assert all(f"| `{option}` |" in text for option in OPTIONS)
    assert f"{DPI[0]} to {DPI[-1]}" in text
