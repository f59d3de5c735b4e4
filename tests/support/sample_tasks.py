"""Tasks for tests of the test set-up."""

from __future__ import annotations

import os

from celery import shared_task


@shared_task
def process_id() -> int:
    """The process that runs it."""
    return os.getpid()
