"""The Celery project and the web application of the chaos run: the chord app, with a body as the OCR service's.

The body writes to a path of its attempt's own and renames it into place, so that running it twice does no harm.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from flask import Flask

from celery_progress_ext import CeleryProgress
from celery_progress_ext.recovery.reconciler import Reconciler
from celery_progress_ext.sse.blueprint import progress_events
from tests.support.chord_app import app
from web import streams

progress = CeleryProgress.of(app)
# Short: Redis then delivers again what a killed worker held, beside the reconciler. Long: only the reconciler does.
app.conf.broker_transport_options = {
    "visibility_timeout": float(os.environ["CHAOS_VISIBILITY_SECONDS"]),
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    # Shorter than a stall may be, so that who publishes meets its end too.
    "socket_timeout": 3.0,
}


_tick = Reconciler.tick


def _counted_tick(self: Reconciler) -> Any:
    """A tick, and a byte in the file of ticks: a busy machine has fewer of them in a second."""
    found = _tick(self)
    with Path(os.environ["CHAOS_TICKS"]).open("ab") as ticks:
        ticks.write(b".")
    return found


Reconciler.tick = _counted_tick  # type: ignore[method-assign]


@app.task(bind=True, name="merge_into_place", shared=False)  # type: ignore[untyped-decorator]
def merge_into_place(self: Any, results: list[int], path: str, seconds: float = 0.0) -> str:
    """Write what came to ``path``, whole or not at all."""
    time.sleep(seconds)
    place = Path(path)
    draft = place.with_suffix(f".{progress.attempt(self)}.draft")
    draft.write_text(json.dumps(results))
    draft.rename(place)
    return place.name


def create_web() -> Flask:
    """The live streams alone, open to everyone: ``gunicorn -c web/gunicorn_conf.py …:create_web()``."""
    server = Flask("chaos")
    streams.install(server, progress_events(progress, lambda matter_id: None, keepalive_seconds=2.0, poll_seconds=1.0))
    return server
