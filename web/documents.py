"""Taking documents in: ``POST /api/documents``."""

from __future__ import annotations

import structlog
from flask import Blueprint, Flask, Response, current_app, jsonify, request, url_for
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from tasks import pipeline
from tasks.keys import Role
from tasks.options import InvalidOption
from tasks.pdf.preflight import Refused
from web import uploads
from web.auth import authorize, require_grant
from web.problems import Problem
from web.slots import Slots

log = structlog.get_logger(__name__)
blueprint = Blueprint("documents", __name__)

_EXTENSION = "web_preflight_slots"
#: How long an upload waits until it is checked, in seconds.
WAIT_SECONDS = 20.0

_KINDS = {413: "too-large", 415: "not-a-pdf", 422: "refused"}


def install(app: Flask, *, preflights: int) -> None:
    """Take documents in, of which so many are checked at once in this process: each takes memory and a core."""
    app.extensions[_EXTENSION] = Slots(
        preflights,
        wait_seconds=WAIT_SECONDS,
        sentence="Many documents are being checked right now. Nothing of yours was kept; send it again in a moment.",
    )
    app.register_blueprint(blueprint, url_prefix="/api")


def _slots() -> Slots:
    slots: Slots = current_app.extensions[_EXTENSION]
    return slots


@blueprint.post("/documents")
def submit() -> Response:
    """Take a PDF (``file``) for a matter (``matter_id``), check it, and start its job: 202 with where to look.

    The fields of ``tasks.options.OPTIONS`` say how it is read.
    """
    require_grant(Role.SUBMIT)
    max_bytes = current_app.config["MAX_UPLOAD_BYTES"]
    try:
        matter_id, upload = request.form.get("matter_id", ""), request.files.get("file")
    except RequestEntityTooLarge:
        raise uploads.refusal(request, max_bytes) from None
    except ClientDisconnected:
        raise Problem(400, "bad-form", "The upload ended too early.") from None
    if not matter_id:
        raise Problem(400, "bad-form", "The form has no field `matter_id`: the matter that the document belongs to.")
    authorize(matter_id, Role.SUBMIT)
    if upload is None or not upload.filename:
        raise Problem(400, "bad-form", "The form has no field `file` with a PDF file in it.")
    filename = uploads.display_name(upload.filename)
    with uploads.on_disk(upload, max_bytes=max_bytes) as path:
        try:
            options = pipeline.options_from(request.form)
            checking = _slots().taken()
            job = pipeline.submit(path, matter_id=matter_id, filename=filename, options=options, checking=checking)
        except InvalidOption as error:
            raise Problem(400, "bad-option", error.message, option=error.option) from None
        except OSError as error:
            log.error("document_not_kept", matter_id=matter_id, error=f"{type(error).__name__}: {error}")
            raise Problem(
                503,
                "store-unreachable",
                "The document cannot be kept now, so there is no job. Try again soon.",
                headers={"Retry-After": "10"},
            ) from None
        except Refused as refusal:
            log.info("document_refused", matter_id=matter_id, reason=refusal.reason)
            kind = _KINDS.get(refusal.http_status, "refused")
            raise Problem(refusal.http_status, kind, refusal.message, reason=refusal.reason) from None
    snapshot = job.snapshot()
    log.info("document_submitted", matter_id=matter_id, job_id=job.id, document_id=snapshot.document_id)
    response = jsonify(job_id=job.id, document_id=snapshot.document_id, links=links(job.id))
    response.status_code = 202
    response.headers["Location"] = url_for("jobs.show", job_id=job.id)
    return response


def links(job_id: str) -> dict[str, str]:
    """Where everything about a job is found."""
    job = url_for("jobs.show", job_id=job_id)
    return {
        "self": job,
        "events": f"{job}/events",
        "chunks": f"{job}/chunks",
        "history": f"{job}/history",
        "pages": f"{job}/pages",
        "retry": f"{job}/retry",
        "cancel": f"{job}/cancel",
        "result": f"{job}/result.pdf",
        "text": f"{job}/result.txt",
        "json": f"{job}/result.json",
        "partial": f"{job}/result.pdf?partial=1",
    }
