"""The service's own worker, which notes each page that it begins to read: ``PAGE PROCESS``, a line in PAGES_LOG.

The page FATAL_PAGE ends the process that reads it, at once; the page FAILING_PAGE raises what nobody expects.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.support import objects

# Before the app is imported, which looks at its settings.
objects.register()

from tasks import recognition  # noqa: E402
from tasks.celery_app import app  # noqa: E402

__all__ = ["app"]

_recognise = recognition._recognise


def _noted(page: int, *args: Any) -> Any:
    with open(os.environ["PAGES_LOG"], "a") as log:
        log.write(f"{page} {os.getpid()}\n")
    if str(page) == os.environ.get("FATAL_PAGE"):
        os.kill(os.getpid(), signal.SIGKILL)
    if str(page) == os.environ.get("FAILING_PAGE"):
        raise RuntimeError("a fault in the code")
    return _recognise(page, *args)


recognition._recognise = _noted
