"""The files that a job made, streamed from the document store."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import PurePath
from types import MappingProxyType
from urllib.parse import quote

from flask import Blueprint, Response, current_app, request
from werkzeug.wsgi import wrap_file

from celery_progress_ext import JobSnapshot, JobStatus
from tasks.documents import DocumentStore
from web.jobs import readable_job
from web.problems import Problem
from web.uploads import display_name

blueprint = Blueprint("results", __name__)

#: What can be had, and as what it is served.
MIME_TYPES: Mapping[str, str] = MappingProxyType(
    {"pdf": "application/pdf", "txt": "text/plain; charset=utf-8", "json": "application/json"}
)

_NOT_READY: Mapping[JobStatus, str] = MappingProxyType(
    {
        JobStatus.PENDING: "The document is waiting for a worker; the result is not there yet.",
        JobStatus.PROCESSING: "The document is being read; the result is not there yet.",
        JobStatus.FAILED: "The job failed, so there is no result. Retry it.",
        JobStatus.CANCELLED: "The job was cancelled before its result was made. Retry it to finish it.",
    }
)


@blueprint.get("/jobs/<job_id>/result.<suffix>")
def download(job_id: str, suffix: str) -> Response:
    """The searchable PDF, the text, or the words with their places; 409 while it is not ready."""
    if suffix not in MIME_TYPES:
        raise Problem(404, "not-found", "Results are result.pdf, result.txt and result.json.")
    snapshot = readable_job(job_id)
    store: DocumentStore = current_app.extensions["web_documents"]
    if snapshot.status in _NOT_READY:
        raise Problem(409, "not-ready", _NOT_READY[snapshot.status], status_of_job=snapshot.status.value)
    if not store.has_output(job_id, suffix):
        raise Problem(409, "not-ready", "The result is not in the document store any more.")
    file, size = store.open_output(job_id, suffix)
    response = Response(wrap_file(request.environ, file), content_type=MIME_TYPES[suffix], direct_passthrough=True)
    response.call_on_close(file.close)
    response.content_length = size
    # A run ends with one version, so its outputs are known by it.
    response.set_etag(f"{job_id}-{snapshot.version}-{suffix}")
    response.headers["Content-Disposition"] = content_disposition(result_name(snapshot, suffix))
    # What a stranger's PDF carries must not run as a page of ours.
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'; frame-ancestors 'none'"
    response.headers["Cache-Control"] = "private, no-cache"
    response.make_conditional(request.environ, accept_ranges=True, complete_length=size)
    return response


def result_name(snapshot: JobSnapshot, suffix: str) -> str:
    """``letter.pdf`` → ``letter-ocr.pdf``."""
    filename = snapshot.metadata.get("filename")
    stem = PurePath(display_name(filename if isinstance(filename, str) else None)).stem
    return f"{stem or 'document'}-ocr.{suffix}"


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
