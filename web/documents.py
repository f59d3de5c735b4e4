"""Documents: taken in (``POST /api/documents``), shown and deleted (``/api/documents/{id}``)."""

from __future__ import annotations

from contextlib import suppress

import structlog
from flask import Blueprint, Flask, Response, current_app, jsonify, request, url_for
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from celery_progress_ext import JobSnapshot
from celery_progress_ext.exceptions import JobNotFound
from tasks import pipeline
from tasks.documents import DocumentStore
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
    """Take a PDF or an image (``file``) for a matter (``matter_id``), check it, and start its job: 202, where to look.

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
        raise Problem(400, "bad-form", "The form has no field `file` with a document in it.")
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
    response.headers["Location"] = url_for("progress_events.job", job_id=job.id)
    return response


@blueprint.get("/documents/<document_id>")
def show(document_id: str) -> Response:
    """The snapshot of a document's newest job."""
    return jsonify(jobs_of(document_id)[0].to_dict())


@blueprint.delete("/documents/<document_id>")
def delete(document_id: str) -> Response:
    """Delete a document: its jobs, its pages and results, and the file that was handed in; 204, or 409 while a job is
    at work on it.
    """
    found = jobs_of(document_id, Role.SUBMIT)
    if any(not job.status.terminal for job in found):
        raise Problem(409, "not-now", "The document is being read. Cancel that first, then delete it.")
    progress = current_app.extensions["web_progress"]
    for job in found:
        # The last one found first: where somebody retries the newest meanwhile, the document stays.
        with suppress(JobNotFound):  # somebody else has deleted it
            progress.delete(job.job_id)
    log.info("document_deleted", matter_id=found[0].matter_id, document_id=document_id, jobs=len(found))
    store: DocumentStore = current_app.extensions["web_documents"]
    try:
        for job in found:
            store.delete_job(job.job_id)
        store.delete_document(document_id)
    except OSError as error:
        log.error("files_left_behind", document_id=document_id, error=f"{type(error).__name__}: {error}")
        raise Problem(
            503,
            "files-left-behind",
            "The document is deleted from the list, but the document store does not answer, so its files are still "
            "there. Whoever runs the service finds its id in the log.",
        ) from None
    return Response(status=204)


def jobs_of(document_id: str, role: Role = Role.READ) -> list[JobSnapshot]:
    """The jobs of a document, the newest first, all of matters that the request's credential opens with this role.

    :raises Problem: 404 when there is none, 401 or 403.
    """
    require_grant(role)
    found: list[JobSnapshot] = current_app.extensions["web_progress"].jobs.of_document(document_id)
    if not found:
        raise Problem(404, "document-not-found", "There is no such document; it may have been deleted.")
    for matter_id in {job.matter_id for job in found}:
        authorize(matter_id, role)
    return found


def links(job_id: str) -> dict[str, str]:
    """Where everything about a job is found."""
    job = url_for("progress_events.job", job_id=job_id)
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
        "hocr": f"{job}/result.hocr",
        "partial": f"{job}/result.pdf?partial=1",
    }
