"""Tokens over HTTP: whoever may read a job or a matter makes one for a page or a program that may not."""

from __future__ import annotations

from typing import Any

import structlog
from flask import Blueprint, Response, jsonify, request, url_for
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from celery_progress_ext.jobs import iso
from celery_progress_ext.tokens import DEFAULT_SECONDS
from web.auth import authorize, require_grant, tokens
from web.jobs import readable_job
from web.problems import Problem

log = structlog.get_logger(__name__)
blueprint = Blueprint("tokens", __name__)

#: A token cannot be called back but by its key's end.
MOST_SECONDS = 24 * 3600


@blueprint.post("/jobs/<job_id>/tokens")
def of_job(job_id: str) -> tuple[Response, int]:
    """Make a token for a job from a JSON object ``{"expires_in": seconds}``, or none: 201."""
    seconds = _seconds()
    job = readable_job(job_id)
    token = tokens().for_job(job.job_id, expires=seconds, issuer=require_grant().id)
    log.info("token_made", job_id=job_id, by=require_grant().name, seconds=seconds)
    links = {
        "job": url_for("progress_events.job", job_id=job_id, token=token),
        "events": url_for("progress_events.job_events", job_id=job_id, token=token),
        "pages": url_for("job_pages.index", job_id=job_id, token=token),
        "celery_progress": url_for("progress_events.celery_progress_with_token", job_id=job_id, token=token),
    }
    return _made(token, links)


@blueprint.post("/matters/<matter_id>/tokens")
def of_matter(matter_id: str) -> tuple[Response, int]:
    """Make a token for all jobs of a matter, as for one."""
    seconds = _seconds()
    authorize(matter_id)
    token = tokens().for_matter(matter_id, expires=seconds, issuer=require_grant().id)
    log.info("token_made", matter_id=matter_id, by=require_grant().name, seconds=seconds)
    links = {
        "jobs": url_for("progress_events.matter_jobs", matter_id=matter_id, token=token),
        "events": url_for("progress_events.matter_events", matter_id=matter_id, token=token),
    }
    return _made(token, links)


def _made(token: str, links: dict[str, str]) -> tuple[Response, int]:
    return jsonify(token=token, expires_at=iso(tokens().read(token).expires_at), links=links), 201


def _seconds() -> float:
    """For how long the request wants it.

    :raises Problem: 400 for what is no such object.
    """
    given: Any = {}
    if request.content_length:
        try:
            given = request.get_json()
        except (BadRequest, UnsupportedMediaType):
            given = None
    seconds = _wanted(given)
    if seconds is None:
        raise Problem(
            400,
            "bad-token-request",
            f"Send a JSON object with `expires_in`, a number of seconds from 1 to {MOST_SECONDS}, or nothing.",
        )
    return seconds


def _wanted(given: Any) -> float | None:
    if not isinstance(given, dict) or not given.keys() <= {"expires_in"}:
        return None
    seconds = given.get("expires_in", DEFAULT_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= MOST_SECONDS:
        return None
    return float(seconds)
