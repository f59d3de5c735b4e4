"""Structured logging: one line per request worth one. Neither query strings nor headers: both may carry secrets."""

from __future__ import annotations

import logging
import time

import structlog
from flask import Flask, Response, g, request

log = structlog.get_logger(__name__)

_OURS = ("web", "tasks", "celery_progress_ext")
_QUIET = ("/static/", "/healthz", "/readyz", "/metrics")


def configure() -> None:
    """Send our lines to stderr, unless the process has set up logging itself."""
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)


def install(app: Flask) -> None:
    """Log the requests of ``app``: those that change something, and those that are refused or fail."""
    app.before_request(_start)
    app.after_request(_finish)


def _start() -> None:
    g.started = time.monotonic()


def _finish(response: Response) -> Response:
    refused = response.status_code >= 400
    if request.path.startswith(_QUIET) or (request.method in ("GET", "HEAD") and not refused):
        return response
    log.info(
        "request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        ms=round((time.monotonic() - g.get("started", time.monotonic())) * 1000),
    )
    return response
