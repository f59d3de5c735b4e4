"""The live streams of this process: registered, counted, and ended when the process has to go."""

from __future__ import annotations

from flask import Flask, current_app

from celery_progress_ext.sse.blueprint import ProgressEvents

_EXTENSION = "web_events"


def install(app: Flask, events: ProgressEvents) -> None:
    """Serve ``/api/jobs/<job_id>/events`` and ``/api/matters/<matter_id>/events``."""
    app.extensions[_EXTENSION] = events
    app.register_blueprint(events, url_prefix="/api")


def open_streams() -> int:
    """How many streams this process serves now."""
    events: ProgressEvents = current_app.extensions[_EXTENSION]
    return events.open_streams


def close(app: Flask) -> None:
    """End every stream of this process; the clients reconnect elsewhere. May be called again."""
    app.extensions[_EXTENSION].close()
