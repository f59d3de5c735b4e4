"""The Celery project that the benchmarks run: chunks and bodies that do nothing."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

app = Celery("noop", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)
if os.environ.get("BENCH_TRACKED") == "1":
    # Here, so that the bare side does not even import it.
    from celery_progress_ext import CeleryProgress

    progress = CeleryProgress(app)


@app.task(name="noop.chunk", bind=True)  # type: ignore[untyped-decorator]
def chunk(self: Any, number: int) -> int:
    """Nothing, as fast as it goes."""
    return number


@app.task(name="noop.merge")  # type: ignore[untyped-decorator]
def merge(results: list[int]) -> int:
    """How many there were."""
    return len(results)
