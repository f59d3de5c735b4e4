"""What a test needs from the machine: skipped at home when it is missing, a failure in CI."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str, install: str) -> NoReturn:
    """Skip the test and say how to get ``what``; where ``CI`` is set, fail it."""
    message = f"{what} is not here: {install}"
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"{message} (CI is set, so this is a failure and not a skip)", pytrace=False)
    pytest.skip(message)
