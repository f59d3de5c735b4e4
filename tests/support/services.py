"""What a test needs from the machine: skipped at home when it is missing, a failure in CI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from tasks.embedded.servers import ServerNotFound
from tests.support.rabbit import RabbitServer


def missing(what: str, install: str) -> NoReturn:
    """Skip the test and say how to get ``what``; where ``CI`` is set, fail it."""
    message = f"{what} is not here: {install}"
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"{message} (CI is set, so this is a failure and not a skip)", pytrace=False)
    pytest.skip(message)


def rabbit_or_skip(folder: Path) -> RabbitServer:
    """A RabbitMQ that is not started yet; the test is skipped, or in CI fails, where the machine has none."""
    try:
        return RabbitServer(folder)
    except ServerNotFound as error:
        missing("RabbitMQ", f"apt-get install --no-install-recommends rabbitmq-server ({error})")
