"""The routes of jobs and matters, for any web framework: what each answers, and what has to be asked before.

A framework's part walks ``ROUTES``, and for a request does

.. code-block:: python

    guarded = routes.open(route, request, **parameters)   # reads; may wait
    if guarded.access is not None:
        authorize(guarded.access.owner)                    # the application's own, in the framework's own way
    answer = guarded.answer()                              # reads; may wait

and sends ``answer``, with a stream where it has one. ``open`` and ``answer`` raise nothing that a request can cause.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from celery_progress_ext.broadcast import job_channel, matter_channel
from celery_progress_ext.exceptions import DatabaseError, InvalidToken, JobNotFound
from celery_progress_ext.log import get_logger
from celery_progress_ext.sse import polled, streams, wire
from celery_progress_ext.sse.answers import Access, Answer, Guarded, Refused, Request, json_answer, problem, refusal_of
from celery_progress_ext.sse.assets import asset
from celery_progress_ext.sse.hub import Topic
from celery_progress_ext.sse.published import Published
from celery_progress_ext.sse.readers import STREAM_HEADERS
from celery_progress_ext.sse.snapshot_reader import SnapshotReader
from celery_progress_ext.tokens import Claims, Tokens, is_token

logger = get_logger(__name__)

_DEFAULT_JOBS, _MOST_JOBS = 50, 200
_TRUE = ("1", "true")


@dataclass(frozen=True)
class Route:
    """A route. ``path`` has its parameters in braces, and follows whatever the application mounts it under."""

    name: str
    path: str
    #: For the API's documentation.
    summary: str = ""

    @property
    def parameters(self) -> list[str]:
        """The names of its parameters."""
        return re.findall(r"\{(\w+)\}", self.path)

    def spelled(self, parameter: str) -> str:
        """The path as a framework writes it, ``parameter`` being such as ``<{}>``."""
        return re.sub(r"\{(\w+)\}", lambda found: parameter.format(found[1]), self.path)


JOB = Route("job", "/jobs/{job_id}", "A job's snapshot.")
JOB_EVENTS = Route("job_events", "/jobs/{job_id}/events", "A job's snapshots as they come (server-sent events).")
MATTER_JOBS = Route("matter_jobs", "/matters/{matter_id}/jobs", "The jobs of an owner.")
MATTER_EVENTS = Route("matter_events", "/matters/{matter_id}/events", "All jobs of an owner, as they come.")
CELERY_PROGRESS = Route("celery_progress", "/celery-progress/{job_id}/", "As celery-progress has it.")
CELERY_PROGRESS_WITH_TOKEN = Route(
    "celery_progress_with_token", "/celery-progress/{job_id}/{token}/", "The same, with a token."
)
ASSET = Route("asset", "/assets/{name}", "The package's JavaScript.")

#: All of them take GET, and OPTIONS where other origins are allowed.
ROUTES = (JOB, JOB_EVENTS, MATTER_JOBS, MATTER_EVENTS, CELERY_PROGRESS, CELERY_PROGRESS_WITH_TOKEN, ASSET)


class Topics(Protocol):
    """A hub, as far as it is looked at."""

    @property
    def connected(self) -> bool:
        """Whether messages arrive."""

    def topic(self, channel: str) -> Topic | None:
        """The topic of a channel that somebody follows now."""


class HubHolder(Protocol):
    """``Readers``, or their async kind."""

    @property
    def hub(self) -> Topics:
        """The hub of this process, or of the event loop."""


class ProgressRoutes:
    """What the routes answer.

    :param progress: a ``CeleryProgress``.
    :param readers: those of this app; its hub has to read from the broadcaster of ``progress``.
    :param tokens: reads the tokens of requests; those that ``progress_token_secrets`` signs unless given.
    """

    def __init__(self, progress: Any, readers: HubHolder, *, tokens: Tokens | None = None) -> None:
        self._progress = progress
        self._readers = readers
        self._given_tokens = tokens
        self._snapshots: SnapshotReader | None = None
        self._handlers: Mapping[Route, Callable[..., Guarded]] = {
            JOB: self._job,
            JOB_EVENTS: self._job_events,
            MATTER_JOBS: self._matter_jobs,
            MATTER_EVENTS: self._matter_events,
            CELERY_PROGRESS: self._celery_progress,
            CELERY_PROGRESS_WITH_TOKEN: self._celery_progress,
            ASSET: self._asset,
        }

    def open(self, route: Route, request: Request, **parameters: str) -> Guarded:
        """What a request asks for.

        :param parameters: of the route's path.
        """
        if request.method == "OPTIONS":
            return Guarded(lambda: self._preflight(request))
        try:
            found = self._handlers[route](request, **parameters)
        except Exception as error:
            refused = self._refused(error, request)
            return Guarded(lambda: refused)
        return Guarded(lambda: self._answer(found, request), access=found.access, credential=found.credential)

    def cors_headers(self, request: Request) -> dict[str, str]:
        """The headers that let a page of another site read, where its origin is one of ``progress_allowed_origins``.

        Never with cookies: such a page brings a token.
        """
        origins: Sequence[str] = self._progress.settings.allowed_origins or ()
        if not origins:
            return {}
        if "*" in origins:
            return {"Access-Control-Allow-Origin": "*"}
        origin = request.headers.get("Origin")
        allowed = {"Access-Control-Allow-Origin": origin} if origin is not None and origin in origins else {}
        return {**allowed, "Vary": "Origin"}

    @property
    def snapshots(self) -> SnapshotReader:
        """Reads for all clients of this process."""
        if self._snapshots is None:
            self._snapshots = SnapshotReader(self._progress.jobs, self._progress.broadcaster)
        return self._snapshots

    def _answer(self, found: Guarded, request: Request) -> Answer:
        try:
            answer = found.answer()
        except Exception as error:
            return self._refused(error, request)
        return replace(answer, headers={**answer.headers, **self.cors_headers(request)})

    def _refused(self, error: Exception, request: Request) -> Answer:
        answer = problem(refusal_of(error), request.path)
        return replace(answer, headers={**answer.headers, **self.cors_headers(request)})

    def _preflight(self, request: Request) -> Answer:
        headers = {"Allow": "GET, HEAD, OPTIONS", **self.cors_headers(request)}
        if "Access-Control-Allow-Origin" in headers:
            headers |= {
                "Access-Control-Allow-Methods": "GET",
                "Access-Control-Allow-Headers": "Authorization, Last-Event-ID",
                "Access-Control-Max-Age": "600",
            }
        return Answer(status=204, headers=headers)

    # Jobs

    def _job(self, request: Request, *, job_id: str) -> Guarded:
        claims = self._claims(request)
        _check_scope(claims, job_id=job_id)
        published = self.snapshots.fresh(job_id)
        return _guarded(claims, Access.of(published.payload), lambda: json_answer(published.payload))

    def _job_events(self, request: Request, *, job_id: str) -> Guarded:
        claims = self._claims(request)
        _check_scope(claims, job_id=job_id)
        try:
            known = self._known(job_id)
        except DatabaseError as error:
            logger.warning("stream_refused", job_id=job_id, error=type(error).__name__)
            known = None
        if known is None:
            # A 5xx would make EventSource give up for good.
            return Guarded(lambda: Answer(headers=STREAM_HEADERS, body=streams.SHED))
        return _guarded(claims, Access.of(known.payload), partial(self._job_stream, request, known, claims))

    def _job_stream(self, request: Request, known: Published, claims: Claims | None) -> Answer:
        last_id = wire.last_event_id(request.headers.get("Last-Event-ID"))
        if known.terminal and last_id is not None and last_id >= known.version:
            return Answer(status=204)
        job_id = known.job_id
        return _stream(
            request,
            claims,
            job_channel(job_id),
            lambda channel: streams.JobTopic(channel, self.snapshots, job_id),
            last_id,
        )

    def _known(self, job_id: str) -> Published | None:
        """What a topic that is followed already knows of a job; else what can be read."""
        hub = self._readers.hub
        topic = hub.topic(job_channel(job_id))
        if isinstance(topic, streams.JobTopic) and topic.newest is not None and hub.connected:
            return topic.newest
        return self.snapshots.of_job(job_id)

    def _celery_progress(self, request: Request, *, job_id: str, token: str | None = None) -> Guarded:
        claims = self._claims(request, token)
        _check_scope(claims, job_id=job_id)
        try:
            published = self.snapshots.fresh(job_id)
        except JobNotFound:
            return Guarded(lambda: json_answer(polled.unknown()))
        result = partial(self._result, job_id)
        return _guarded(
            claims, Access.of(published.payload), lambda: json_answer(polled.info(published.payload, result))
        )

    def _result(self, job_id: str) -> Any:
        """The body's result, or None where it is not kept any more."""
        try:
            return self._progress.job(job_id).result
        except Exception as error:  # whatever the result backend raises: the job has ended all the same
            logger.warning("result_unreadable", job_id=job_id, error=type(error).__name__)
            return None

    # Matters

    def _matter_jobs(self, request: Request, *, matter_id: str) -> Guarded:
        claims = self._claims(request)
        _check_scope(claims, matter_id=matter_id)
        limit, active = _limit(request), request.query.get("active") in _TRUE

        def make() -> Answer:
            return json_answer([each.payload for each in self.snapshots.listed(matter_id, limit=limit, active=active)])

        return _guarded(claims, Access(owner=matter_id), make)

    def _matter_events(self, request: Request, *, matter_id: str) -> Guarded:
        claims = self._claims(request)
        _check_scope(claims, matter_id=matter_id)
        last_id = wire.last_event_id(request.headers.get("Last-Event-ID"))

        def make() -> Answer:
            return _stream(
                request,
                claims,
                matter_channel(matter_id),
                lambda channel: streams.MatterTopic(channel, self.snapshots, matter_id),
                last_id,
            )

        return _guarded(claims, Access(owner=matter_id), make)

    # Files

    def _asset(self, request: Request, *, name: str) -> Guarded:
        return Guarded(lambda: asset(name, if_none_match=request.headers.get("If-None-Match")))

    # Tokens

    @property
    def _tokens(self) -> Tokens:
        if self._given_tokens is None:
            self._given_tokens = Tokens(self._progress.settings.token_secrets or ())
        return self._given_tokens

    def _claims(self, request: Request, token: str | None = None) -> Claims | None:
        """What the request's token opens; None where it brings none. One that is wrong is not made good by a cookie."""
        found = token if token is not None else token_of(request)
        if found is None:
            return None
        try:
            return self._tokens.read(found)
        except InvalidToken as error:
            raise Refused(
                401, "token", str(error), {"WWW-Authenticate": 'Bearer realm="progress", error="invalid_token"'}
            ) from None


def token_of(request: Request) -> str | None:
    """The token that a request brings: ``?token=``, or ``Authorization: Bearer``; None for any other credential."""
    token = request.query.get("token")
    if token is not None:
        return token
    scheme, _, credential = (request.headers.get("Authorization") or "").strip().partition(" ")
    credential = credential.strip()
    return credential if scheme.lower() == "bearer" and is_token(credential) else None


def check_opens(claims: Claims, *, job_id: str | None = None, matter_id: str | None = None) -> None:
    """Let a token through that opens this job, or this matter.

    :param matter_id: of the job, where that is known.
    :raises Refused: 403.
    """
    opens_job = claims.job_id is not None and claims.job_id == job_id
    opens_matter = claims.matter_id is not None and claims.matter_id == matter_id
    if not (opens_job or opens_matter):
        raise Refused(403, "other-scope", "This token opens something else.")


def _check_scope(claims: Claims | None, *, job_id: str | None = None, matter_id: str | None = None) -> None:
    """Refuse a token that cannot open this, before anything is read. Which matter a job is of is seen later."""
    if claims is not None and (matter_id is not None or claims.matter_id is None):
        check_opens(claims, job_id=job_id, matter_id=matter_id)


def _guarded(claims: Claims | None, access: Access, make: Callable[[], Answer]) -> Guarded:
    """An answer about a job or a matter: a token has to open it, else the application is asked."""
    if claims is None:
        return Guarded(make, access=access)
    if claims.matter_id is not None:
        check_opens(claims, matter_id=access.owner)
    return Guarded(make, credential=f"token {claims.id}")


def _stream(
    request: Request,
    claims: Claims | None,
    channel: str,
    make: Callable[[str], streams.JobTopic | streams.MatterTopic],
    last_id: int | None,
) -> Answer:
    until = None if claims is None else time.monotonic() + claims.expires_at - time.time()
    unnamed = request.query.get("events") == "message"
    stream = streams.Stream(channel=channel, make=make, last_id=last_id, unnamed=unnamed, until=until)
    return Answer(headers=STREAM_HEADERS, stream=stream)


def _limit(request: Request) -> int:
    text = request.query.get("limit", str(_DEFAULT_JOBS))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 1 <= limit <= _MOST_JOBS:
        raise Refused(400, "bad-number", f"limit is a number from 1 to {_MOST_JOBS}.")
    return limit
