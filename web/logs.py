"""Structured logging: one line for each request. Neither query strings nor headers: both may carry secrets.

Every line that a request causes, here or in a worker, has its ``request_id``: the proxy's, where it sends one.
"""

from __future__ import annotations

import logging
import re
import time
from urllib.parse import quote

import structlog
from flask import Flask, Response, g, request

from tasks import request_ids

log = structlog.get_logger(__name__)

#: A token, where it stands in a path.
_TOKEN = re.compile(r"prog_[^/]*")
#: Where gunicorn's access log finds the path.
PATH_VARIABLE = "progress.path"
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
    """Log the requests of ``app``, but for those of static files and of who watches it, where all is well."""
    app.before_request(_start)
    app.after_request(_finish)


def path() -> str:
    """The request's path, without a token that stands in it."""
    return _TOKEN.sub("prog_***", request.path)


def _start() -> None:
    request.environ[PATH_VARIABLE] = quote(path(), safe="/~:@!$&'()*+,;=")
    g.started = time.monotonic()
    g.request_id = request_ids.accepted(request.headers.get(request_ids.HTTP_HEADER))
    structlog.contextvars.bind_contextvars(**{request_ids.NAME: g.request_id})


def _finish(response: Response) -> Response:
    response.headers[request_ids.HTTP_HEADER] = g.request_id
    refused = response.status_code >= 400
    if refused or not request.path.startswith(_QUIET):
        grant, token = g.get("grant"), g.get("token")
        holder = grant.name if grant is not None else f"token {token.id[:8]}" if token is not None else None
        log.info(
            "request",
            address=request.remote_addr,
            credential=holder,
            method=request.method,
            path=path(),
            status=response.status_code,
            ms=round((time.monotonic() - g.started) * 1000),
        )
    return response
