"""What the unit tests share."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest


@pytest.fixture
def new_children() -> Callable[[], list[psutil.Process]]:
    """The children of this process that the test has started: other tests' servers do not count."""
    before = {child.pid for child in psutil.Process().children()}
    return lambda: [child for child in psutil.Process().children() if child.pid not in before]
