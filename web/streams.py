"""The live streams of this process: registered, counted, and ended when the process has to go."""

from __future__ import annotations

from flask import Flask, Response, current_app, request

from celery_progress_ext.sse.blueprint import ProgressEvents
from celery_progress_ext.sse.routes import CELERY_PROGRESS, CELERY_PROGRESS_WITH_TOKEN
from web.auth import READ_WITH_TOKEN

_EXTENSION = "web_events"


def install(app: Flask, events: ProgressEvents) -> None:
    """Serve the library's routes of jobs and matters under ``/api``; what a token opens, other sites may read."""
    app.extensions[_EXTENSION] = events
    app.register_blueprint(events, url_prefix="/api")
    # Where celery-progress's own address is, as its documentation has it.
    for route in (CELERY_PROGRESS, CELERY_PROGRESS_WITH_TOKEN):
        app.add_url_rule(route.spelled("<{}>"), f"{events.name}.{route.name}", methods=["GET", "OPTIONS"])

    def let_other_sites_read(response: Response) -> Response:
        return events.add_cors_headers(response) if request.endpoint in READ_WITH_TOKEN else response

    app.after_request(let_other_sites_read)


def open_streams() -> int:
    """How many streams this process serves now."""
    events: ProgressEvents = current_app.extensions[_EXTENSION]
    return events.open_streams


def close(app: Flask) -> None:
    """End every stream of this process; the clients reconnect elsewhere. May be called again."""
    app.extensions[_EXTENSION].close()
