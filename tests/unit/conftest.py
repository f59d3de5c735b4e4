"""What the unit tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psutil
import pytest

from tasks.engines import OcrEngine, make_engine


@pytest.fixture
def new_children() -> Callable[[], list[psutil.Process]]:
    """The children of this process that the test has started: other tests' servers do not count."""
    before = {child.pid for child in psutil.Process().children()}
    return lambda: [child for child in psutil.Process().children() if child.pid not in before]


@pytest.fixture(scope="module")
def tesseract() -> Iterator[OcrEngine]:
    """One for all pages of a module."""
    engine = make_engine("tesseract", "eng")
    yield engine
    engine.close()


@pytest.fixture
def no_cpu_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """``graft`` runs in this process, which is to live on."""
    monkeypatch.setattr("tasks.pdf.graft.allow_cpu", lambda seconds: None)
