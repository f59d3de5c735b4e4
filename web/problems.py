"""Errors as people and programs read them: ``application/problem+json`` (RFC 9457), HTML outside the API."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import kombu.exceptions
import redis.exceptions
import structlog
from flask import Flask, Response, json, render_template, request
from werkzeug.exceptions import HTTPException, NotFound

from celery_progress_ext import exceptions
from tasks.store_errors import StoreAway, StoreReadOnly
from web import logs

log = structlog.get_logger(__name__)


class Problem(HTTPException):
    """An error of the HTTP contract.

    :param status: the HTTP status.
    :param kind: a stable slug for programs, such as ``not-a-pdf``.
    :param detail: a sentence that the user of the page understands.
    :param headers: further response headers.
    :param members: further members of the JSON object.
    """

    def __init__(
        self, status: int, kind: str, detail: str, *, headers: dict[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.code = status
        self.kind = kind
        self.extra_headers = headers or {}
        self.members = members


#: Statuses that Flask and Werkzeug raise on their own, and what to tell about them.
_SENTENCES = {
    400: "The request could not be understood.",
    404: "There is nothing at this address.",
    405: "This address does not take requests of this kind.",
    413: "The upload is too large.",
    415: "The service does not take content of this type.",
    500: "Something went wrong on our side. It has been recorded; please try again.",
}

#: Errors of the layers below, by class: status, slug, and the sentence (None: the error's own).
_RAISED: dict[type[Exception], tuple[int, str, str | None]] = {
    exceptions.JobNotFound: (404, "job-not-found", "There is no job with this id."),
    exceptions.ChunkNotFound: (404, "chunk-not-found", None),
    exceptions.IllegalTransition: (409, "not-now", None),
    exceptions.DatabaseNotMigrated: (503, "database-not-ready", "The service is being set up. Try again in a moment."),
    exceptions.DatabaseAway: (503, "database-unreachable", "The database does not answer. Try again soon."),
    kombu.exceptions.OperationalError: (503, "queue-unreachable", "The task queue does not answer. Try again soon."),
    redis.exceptions.ConnectionError: (503, "queue-unreachable", "The task queue does not answer. Try again soon."),
    StoreAway: (503, "store-unreachable", "The document store does not answer. Try again soon."),
    StoreReadOnly: (503, "store-unreachable", "The document store does not allow this now. Try again later."),
    redis.exceptions.TimeoutError: (503, "queue-unreachable", "The task queue does not answer. Try again soon."),
}


def install(app: Flask) -> None:
    """Make every error of ``app`` a problem document under /api, a page elsewhere; never a traceback."""
    app.before_request(_refuse_what_no_name_has)
    app.register_error_handler(HTTPException, _http_error)
    for kind in _RAISED:
        app.register_error_handler(kind, _translate(kind))
    app.register_error_handler(Exception, _unexpected)


def _refuse_what_no_name_has() -> None:
    """404 for a control character in the path: nothing of ours is called so, and PostgreSQL takes no NUL."""
    if not request.path.isprintable():
        raise NotFound


def _translate(kind: type[Exception]) -> Callable[[Exception], Response]:
    status, slug, sentence = _RAISED[kind]

    def answer(error: Exception) -> Response:
        if status >= 500:
            log.error("request_failed", path=logs.path(), error=type(error).__name__, exc_info=error)
        return _answer(Problem(status, slug, sentence or str(error)))

    return answer


def _unexpected(error: Exception) -> Response:
    log.error("request_failed", path=logs.path(), error=type(error).__name__, exc_info=error)
    return _answer(Problem(500, "internal-error", _SENTENCES[500]))


def _http_error(error: HTTPException) -> Response:
    if isinstance(error, Problem):
        return _answer(error)
    if error.code is None or error.code < 400:
        return error.get_response()  # type: ignore[return-value]  # a redirect
    phrase = HTTPStatus(error.code).phrase
    problem = Problem(error.code, phrase.lower().replace(" ", "-"), _SENTENCES.get(error.code, f"{phrase}."))
    if error.code == 405:
        allowed = getattr(error, "valid_methods", None)
        problem.extra_headers = {"Allow": ", ".join(sorted(allowed))} if allowed else {}
    return _answer(problem)


def _answer(problem: Problem) -> Response:
    assert problem.code is not None
    if request.path.startswith(("/api/", "/celery-progress/")) or request.path == "/api":
        response = _document(problem)
    else:
        response = Response(render_template("error.html", problem=problem), mimetype="text/html")
    response.status_code = problem.code
    response.headers.extend(problem.extra_headers)
    return response


def _document(problem: Problem) -> Response:
    assert problem.code is not None
    members = {
        "type": f"urn:problem-type:{problem.kind}",
        "title": HTTPStatus(problem.code).phrase,
        "status": problem.code,
        "detail": problem.description,
        "instance": logs.path(),
        **problem.members,
    }
    return Response(json.dumps(members), mimetype="application/problem+json")
