"""The files that a job made, streamed from the document store."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePath
from types import MappingProxyType
from typing import BinaryIO
from urllib.parse import quote

import structlog
from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.wsgi import wrap_file

from celery_progress_ext import JobSnapshot, JobStatus
from tasks.documents import DocumentStore
from tasks.partial import Order, PartialFailed, PartialUnavailable, make_partial
from web.job_pages import job_pages
from web.jobs import readable_job
from web.problems import Problem
from web.slots import RETRY_AFTER, Slots
from web.uploads import display_name

log = structlog.get_logger(__name__)
blueprint = Blueprint("results", __name__)

#: PDFs of what is there that are made at once, and how long the next one waits, in seconds.
PARTIALS, PARTIAL_WAIT = 1, 20.0

#: What can be had, and as what it is served.
MIME_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "pdf": "application/pdf",
        "txt": "text/plain; charset=utf-8",
        "json": "application/json",
        "hocr": "text/vnd.hocr+html; charset=utf-8",
    }
)

_NOT_READY: Mapping[JobStatus, str] = MappingProxyType(
    {
        JobStatus.PENDING: "The document is waiting for a worker; the result is not there yet.",
        JobStatus.PROCESSING: "The document is being read; the result is not there yet.",
        JobStatus.FAILED: "The job failed, so there is no result. Retry it.",
        JobStatus.CANCELLED: "The job was cancelled before its result was made. Retry it to finish it.",
    }
)


def install(app: Flask, documents_url: str, *, files_group: str | None = None) -> None:
    """Serve results; PDFs of what is there are made from the files under ``documents_url``, for this group too."""
    app.config.update(DOCUMENTS_URL=documents_url, DOCUMENTS_GROUP=files_group)
    app.extensions["web_partial_slots"] = Slots(
        PARTIALS,
        wait_seconds=PARTIAL_WAIT,
        sentence="Other documents are being put together right now. Try again in a moment.",
    )
    app.register_blueprint(blueprint, url_prefix="/api")


@blueprint.get("/jobs/<job_id>/result.<suffix>")
def download(job_id: str, suffix: str) -> Response:
    """The searchable PDF, the text, or the words with their places; 409 while it is not ready.

    ``result.pdf?partial=1`` is the PDF of what is there meanwhile; 409 while that is nothing.
    """
    if suffix not in MIME_TYPES:
        raise Problem(404, "not-found", "Results are result.pdf, result.txt, result.hocr and result.json.")
    snapshot = readable_job(job_id)
    if snapshot.status in _NOT_READY:
        if suffix == "pdf" and request.args.get("partial", "") in ("1", "true"):
            return _partial(snapshot)
        raise Problem(409, "not-ready", _NOT_READY[snapshot.status], status_of_job=snapshot.status.value)
    if not _store().has_output(job_id, suffix):
        raise Problem(409, "not-ready", "The result is not in the document store any more.")
    file, size = _store().open_output(job_id, suffix)
    # A run ends with one version, so its outputs are known by it.
    return _served(file, size, suffix, name=result_name(snapshot, suffix), etag=f"{job_id}-{snapshot.version}-{suffix}")


def _partial(snapshot: JobSnapshot) -> Response:
    job_id, pages = snapshot.job_id, job_pages()
    run, chunks = pages.state(job_id)
    digest = _store().pages.digest(job_id, run=run)
    if digest is None or snapshot.document_id is None:
        raise Problem(409, "not-ready", "No page is read yet.", status_of_job=snapshot.status.value)
    order = Order(
        documents_url=current_app.config["DOCUMENTS_URL"],
        files_group=current_app.config["DOCUMENTS_GROUP"],
        document_id=snapshot.document_id,
        job_id=job_id,
        run=run,
        chunks=chunks,
        pages=snapshot.pages_total,
        digest=digest,
    )
    try:
        file, size = _open_or_make(order)
    except PartialFailed as error:
        raise Problem(409, "not-ready", str(error), status_of_job=snapshot.status.value) from None
    except PartialUnavailable:
        log.warning("partial_not_made", job_id=job_id)
        headers = {"Retry-After": str(RETRY_AFTER)}
        sentence = "The PDF of what is there took too much time or memory. Read its pages, or wait for the whole."
        raise Problem(503, "partial-unavailable", sentence, headers=headers) from None
    return _served(file, size, "pdf", name=result_name(snapshot, "pdf", so_far=True), etag=f"{job_id}-{digest}")


def _open_or_make(order: Order) -> tuple[BinaryIO, int]:
    """The PDF, made where nobody has asked for it since the last page came."""
    with suppress(FileNotFoundError):
        return _store().open_partial(order.job_id, order.digest)
    slots: Slots = current_app.extensions["web_partial_slots"]
    with slots.taken():
        # Somebody else may have had it made while this request waited.
        with suppress(FileNotFoundError):
            return _store().open_partial(order.job_id, order.digest)
        make_partial(order)
        return _store().open_partial(order.job_id, order.digest)


def _store() -> DocumentStore:
    store: DocumentStore = current_app.extensions["web_documents"]
    return store


def _served(file: BinaryIO, size: int, suffix: str, *, name: str, etag: str) -> Response:
    response = Response(wrap_file(request.environ, file), content_type=MIME_TYPES[suffix], direct_passthrough=True)
    response.call_on_close(file.close)
    response.content_length = size
    response.set_etag(etag)
    response.headers["Content-Disposition"] = content_disposition(name)
    # What a stranger's PDF carries must not run as a page of ours.
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'; frame-ancestors 'none'"
    response.headers["Cache-Control"] = "private, no-cache"
    response.make_conditional(request.environ, accept_ranges=True, complete_length=size)
    return response


def result_name(snapshot: JobSnapshot, suffix: str, *, so_far: bool = False) -> str:
    """``letter.pdf`` → ``letter-ocr.pdf``; ``letter-ocr-so-far.pdf`` for what is not the whole."""
    filename = snapshot.metadata.get("filename")
    stem = PurePath(display_name(filename if isinstance(filename, str) else None)).stem
    return f"{stem or 'document'}-ocr{'-so-far' if so_far else ''}.{suffix}"


def content_disposition(filename: str) -> str:
    """An attachment's header: a plain ASCII name, and the real one where it is not plain (RFC 6266)."""
    # Half a surrogate pair, from a name that was no Unicode, cannot be sent.
    filename = filename.encode("utf-8", "replace").decode()
    ascii_name = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    plain = "".join(c if c.isalnum() or c in " ._-()" else "_" for c in ascii_name).strip(" .") or "document"
    if plain == filename:
        return f'attachment; filename="{plain}"'
    encoded = quote(filename, safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
