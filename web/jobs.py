"""Jobs over HTTP: lists, chunks and history; retry and cancel. Their snapshots and streams are the library's."""

from __future__ import annotations

from urllib.parse import urlencode

import structlog
from flask import Blueprint, Response, current_app, jsonify, request, url_for

from celery_progress_ext import CeleryProgress, JobSnapshot, JobStatus
from tasks.keys import Role
from web.auth import authorize, require_grant
from web.cursors import after, place
from web.numbers import number
from web.problems import Problem

log = structlog.get_logger(__name__)
blueprint = Blueprint("jobs", __name__)

_MAX_JOBS = 200
_MAX_EVENTS = 1000


def progress() -> CeleryProgress:
    """The tracked Celery app of this web application."""
    found: CeleryProgress = current_app.extensions["web_progress"]
    return found


def readable_job(job_id: str, role: Role = Role.READ) -> JobSnapshot:
    """The snapshot of a job whose matter the request's credential opens, with this role.

    :raises JobNotFound: when there is none.
    :raises Problem: 401 or 403.
    """
    require_grant(role)
    snapshot = progress().jobs.snapshot(job_id)
    authorize(snapshot.matter_id, role)
    return snapshot


@blueprint.get("/jobs")
def index() -> Response:
    """Snapshots, newest first: of ``matter_id``, or of every matter that the credential opens. ``limit`` up to 200.

    ``q`` are words of the title (the file's name), ``status`` one or more statuses with commas between them, ``active``
    is short for those that are not over. A ``Link`` with ``rel="next"`` leads to the next page where there is one.
    """
    limit = number("limit", default=50, least=1, most=_MAX_JOBS)
    active = request.args.get("active", "") in ("1", "true")
    cursor = request.args.get("cursor")
    before = None if cursor is None else place(cursor)
    statuses = _statuses()
    grant = require_grant()
    if "matter_id" in request.args:
        authorize(request.args["matter_id"])
        matters: list[str | None] = [request.args["matter_id"]]
    else:
        matters = [None] if grant.everything else [*sorted(grant.matters)]
    found = [
        job
        for matter in matters
        for job in progress().jobs.list(
            matter,
            # One more than is shown: whether there are more.
            limit=limit + 1,
            active_only=active,
            statuses=statuses,
            search=request.args.get("q", ""),
            before=before,
        )
    ]
    found.sort(key=lambda job: (job.created_at, job.job_id), reverse=True)
    response = jsonify([job.to_dict() for job in found[:limit]])
    if len(found) > limit:
        asked = {**request.args, "cursor": after(found[limit - 1])}
        response.headers["Link"] = f'<{url_for("jobs.index")}?{urlencode(asked)}>; rel="next"'
    return response


def _statuses() -> list[JobStatus] | None:
    """Those that the request asks for; None for any.

    :raises Problem: 400 for one that is none.
    """
    asked = request.args.get("status", "")
    try:
        return [JobStatus(name) for name in asked.split(",")] if asked else None
    except ValueError:
        names = ", ".join(status.value for status in JobStatus)
        raise Problem(400, "bad-parameter", f"`status` must be one or more of {names}, with commas.") from None


@blueprint.get("/jobs/<job_id>/chunks")
def chunks(job_id: str) -> Response:
    """The chunk rows of a job, in order."""
    readable_job(job_id)
    return jsonify(progress().jobs.chunks(job_id))


@blueprint.get("/jobs/<job_id>/history")
def history(job_id: str) -> Response:
    """What happened to a job after the version ``after``, oldest first; at most ``limit`` (1000) events."""
    newer = number("after", default=0, least=0, most=2**63 - 1)
    limit = number("limit", default=_MAX_EVENTS, least=1, most=_MAX_EVENTS)
    readable_job(job_id)
    return jsonify(progress().jobs.history(job_id, after=newer, limit=limit))


@blueprint.post("/jobs/<job_id>/retry")
def retry(job_id: str) -> tuple[Response, int]:
    """Run what did not finish again: 202 with the snapshot, 409 where there is nothing to retry."""
    readable_job(job_id, Role.SUBMIT)
    snapshot = progress().retry_failed(job_id)
    log.info("job_retried", job_id=job_id)
    return jsonify(snapshot.to_dict()), 202


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> tuple[Response, int]:
    """Stop a job and keep what is finished: 202 with the snapshot, 409 where it has ended."""
    readable_job(job_id, Role.SUBMIT)
    snapshot = progress().cancel(job_id)
    log.info("job_cancelled", job_id=job_id)
    return jsonify(snapshot.to_dict()), 202
