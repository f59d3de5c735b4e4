"""A job's pages over HTTP, as soon as each is read: ``GET /api/jobs/{id}/pages`` and ``…/pages/{n}.txt``."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Flask, Response, current_app, jsonify, request, url_for

from celery_progress_ext import CeleryProgress, ChunkStatus
from tasks.job_pages import JobPages
from tasks.page_store import PageStore
from web.auth import authorize_reading
from web.jobs import progress
from web.numbers import number
from web.problems import Problem

blueprint = Blueprint("job_pages", __name__)

_EXTENSION = "web_job_pages"
_MAX_PAGES = 1000
_DEFAULT_PAGES = 200

#: Chunk's status → why the text of one of its pages is not there.
_NOT_THERE = {
    ChunkStatus.PENDING: "Page {page} is not read yet; its chunk waits for a worker.",
    ChunkStatus.PROCESSING: "Page {page} is not read yet; its chunk is being read.",
    ChunkStatus.FAILED: "Page {page} was not read, because its chunk failed. Retry the job.",
    ChunkStatus.COMPLETED: "Page {page} is not in the document store any more.",
}


def install(app: Flask, progress: CeleryProgress, store: PageStore) -> None:
    """Serve the pages of the jobs of ``progress``."""
    app.extensions[_EXTENSION] = JobPages(progress, store)
    app.register_blueprint(blueprint, url_prefix="/api")


def job_pages() -> JobPages:
    """The reader of this web application."""
    found: JobPages = current_app.extensions[_EXTENSION]
    return found


@blueprint.get("/jobs/<job_id>/pages")
def index(job_id: str) -> Response:
    """What is known of each page behind ``after`` (0), in order; at most ``limit`` (200, up to 1000)."""
    after = number("after", default=0, least=0, most=10**9)
    limit = number("limit", default=_DEFAULT_PAGES, least=1, most=_MAX_PAGES)
    authorize_reading(job_id, progress().jobs.snapshot(job_id).matter_id)
    rows = job_pages().listed(job_id, after=after, limit=limit)
    return jsonify([_with_link(job_id, row) for row in rows])


@blueprint.get("/jobs/<job_id>/pages/<page>.txt")
def text(job_id: str, page: str) -> Response:
    """What a page says; 409 while it is not read, 404 where there is no such page."""
    authorize_reading(job_id, progress().jobs.snapshot(job_id).matter_id)
    asked = int(page) if page.isascii() and page.isdigit() and len(page) < 10 else 0
    try:
        result = job_pages().result(job_id, asked)
    except LookupError:
        raise Problem(404, "page-not-found", f"The document has no page {page}.") from None
    if result is None:
        chunk = next(each for each in job_pages().chunks(job_id) if each.page_start <= asked <= each.page_end)
        detail = _NOT_THERE[chunk.status].format(page=asked)
        raise Problem(409, "not-ready", detail, page=asked, status_of_chunk=chunk.status.value)
    response = Response(result.text, content_type="text/plain; charset=utf-8")
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'; frame-ancestors 'none'"
    response.headers["Cache-Control"] = "private, no-cache"
    response.add_etag()
    response.make_conditional(request.environ)
    return response


def _with_link(job_id: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row, with the address of the page's text once that is there."""
    there = row["status"] is not None and row["reason"] != "chunk_failed"
    return {**row, "text": url_for("job_pages.text", job_id=job_id, page=row["page"]) if there else None}
