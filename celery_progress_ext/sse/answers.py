"""Requests and answers without a web framework, which makes the one from its own, and its own from the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Protocol

from celery_progress_ext.exceptions import DatabaseError, DatabaseNotMigrated, JobNotFound
from celery_progress_ext.log import get_logger
from celery_progress_ext.sse.streams import Stream

logger = get_logger(__name__)

#: What depends on the credential and on the moment.
NO_STORE = {"Cache-Control": "no-store"}


class Headers(Protocol):
    """Headers by name."""

    def get(self, name: str, /) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the routes look at of a request."""

    method: str = "GET"
    #: Without the query; errors name it.
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    #: With names in any case, as every framework has them.
    headers: Headers = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response: its body, or the stream that its client follows (``Readers.wsgi_body``, or an async one)."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: Stream | None = None


class Refused(Exception):
    """A request that is not answered as it was asked.

    :param kind: a stable slug for programs, such as ``job-not-found``.
    :param detail: a sentence for a person.
    """

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = headers or {}


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a request has to be allowed to read: one job, or all of an owner's, for which ``job_id`` and ``subject`` are
    None.
    """

    job_id: str | None = None
    #: The tenant. None for a job that belongs to nobody: only who may read everything may read it.
    owner: str | None
    #: What the job works on.
    subject: str | None = None

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Access:
        """That of a snapshot on the wire."""
        return cls(job_id=payload["job_id"], owner=payload["matter_id"], subject=payload["document_id"])


class Guarded:
    """An answer, for whoever may have it.

    Where ``access`` is given, ask first whether the request may read that. Then take
    :meth:`answer`, which reads and may wait; it is not made before.

    :param credential: an id of the token that the request came with, for the cap on streams; None where it has none.
    """

    def __init__(
        self,
        make: Callable[[], Answer],
        *,
        access: Access | None = None,
        credential: str | None = None,
    ) -> None:
        self._make = make
        self.access = access
        self.credential = credential

    def answer(self) -> Answer:
        """The answer; an error as a problem document (RFC 9457)."""
        return self._make()


def json_answer(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """JSON that no cache keeps."""
    body = json.dumps(content, separators=(",", ":"), default=str).encode()
    return Answer(status=status, headers={"Content-Type": "application/json", **NO_STORE, **(headers or {})}, body=body)


def problem(refused: Refused, path: str) -> Answer:
    """A problem document."""
    members = {
        "type": f"urn:problem-type:{refused.kind}",
        "title": HTTPStatus(refused.status).phrase,
        "status": refused.status,
        "detail": refused.detail,
        "instance": path,
    }
    answer = json_answer(members, status=refused.status, headers=refused.headers)
    return replace(answer, headers={**answer.headers, "Content-Type": "application/problem+json"})


def refusal_of(error: Exception) -> Refused:
    """What a request is told of an error.

    :raises Exception: the error itself, where nobody expected it.
    """
    match error:
        case Refused():
            return error
        case JobNotFound():
            # The error's own sentence is for who runs the processes.
            return Refused(404, "job-not-found", str(JobNotFound()))
        case DatabaseNotMigrated():
            detail = "The service is being set up. Try again in a moment."
            return Refused(503, "database-not-ready", detail, {"Retry-After": "5"})
        case DatabaseError():
            logger.warning("request_failed", error=type(error).__name__)
            detail = "The database does not answer. Try again soon."
            return Refused(503, "database-unreachable", detail, {"Retry-After": "5"})
        case _:
            raise error
