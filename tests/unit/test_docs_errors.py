"""docs/errors.md tells of every reason that a page can have, in the words that a person sees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.options import DPI, OPTIONS
from tasks.page_results import REASONS, PageStatus

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("slug", REASONS)
def test_each_reason_is_explained(slug: str) -> None:
    """With its slug and its sentence."""
    clause = re.sub(r"\{seconds[^}]*\}", "120", REASONS[slug].clause).replace("{detail}", "…")
    (row,) = [line for line in (DOCS / "errors.md").read_text().splitlines() if line.startswith(f"| `{slug}` |")]
    assert f"| Page 3 {clause}" in row


def test_each_status_and_option_is_listed() -> None:
    """In docs/ocr.md."""
    text = (DOCS / "ocr.md").read_text()
    assert all(f"| `{status}` |" in text for status in PageStatus)
    assert all(f"| `{option}` |" in text for option in OPTIONS)
    assert f"{DPI[0]} to {DPI[-1]}" in text
