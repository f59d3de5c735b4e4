"""A document becomes a job: preflight, store, tracked chord. Tasks are named, not imported: no engine comes along."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

from celery_progress_ext import tracked_chord
from celery_progress_ext.exceptions import NotPublished
from celery_progress_ext.tracked_job import TrackedJob
from tasks.celery_app import app, progress, settings
from tasks.documents import DocumentStore
from tasks.lanes import lane_of
from tasks.limits import chunk_time_limits, merge_time_limits
from tasks.options import OcrOptions
from tasks.page_results import chunk_ranges
from tasks.pdf.costs import page_costs
from tasks.pdf.preflight import Preflight, check

logger = structlog.get_logger(__name__)


def options_from(given: Mapping[str, str | None]) -> OcrOptions:
    """What a person chose for a document, by the names in ``tasks.options.OPTIONS``.

    :raises InvalidOption: for the first value that cannot be used.
    """
    return OcrOptions.parse(given, settings)


def submit(
    path: Path,
    *,
    matter_id: str,
    filename: str,
    document_id: str | None = None,
    options: OcrOptions | None = None,
    checking: AbstractContextManager[None] | None = None,
) -> TrackedJob:
    """Check the document at ``path``, keep a copy and start its job. Where that fails, nothing is left behind.

    A broker or result backend that is away does not make it fail: the job waits in the rows until they are back.

    :param document_id: a new one is made unless given; it must not be taken.
    :param options: how it is read; as the deployment has it unless given.
    :param checking: held while the document is checked, which takes memory: a bound on how many are at once.
    :raises Refused: when the document is not accepted.
    :raises InvalidOption: for an option that cannot be used.
    :raises ValueError: for a document id that cannot be used.
    :raises NotPublished: when the job is FAILED before it began; it can be retried, so the original stays.
    """
    options = options or OcrOptions.default(settings)
    options.check()
    document_id = document_id or f"doc_{uuid4().hex}"
    store = DocumentStore(settings.documents_url, files_group=settings.files_group)
    if store.has_original(document_id):
        raise ValueError(f"there is a document {document_id!r} already")
    with tempfile.TemporaryDirectory() as scratch:
        with checking or nullcontext():
            found = check(Path(path), scratch=Path(scratch), dpi=options.dpi, max_bytes=settings.max_upload_bytes)
        options.check_pages(found.pages)
        ranges = chunk_ranges(found.pages, options.chunk_pages)
        try:
            store.put_original(document_id, found.path)
            return _start(document_id, found, ranges, options, matter_id, filename)
        except NotPublished:
            raise
        except BaseException:
            _withdraw(store, document_id)
            raise


def _start(
    document_id: str,
    found: Preflight,
    ranges: list[tuple[int, int]],
    options: OcrOptions,
    matter_id: str,
    filename: str,
) -> TrackedJob:
    pages = found.pages
    chunk = chunk_time_limits(max(last - first + 1 for first, last in ranges), settings.ocr_page_timeout)
    merge = merge_time_limits(pages)
    return tracked_chord(
        [
            app.signature(
                "tasks.ocr_chunk",
                args=(document_id, first, last),
                kwargs={"options": options.to_dict(), **_known_faults(found, first, last)},
                soft_time_limit=chunk.soft,
                time_limit=chunk.hard,
            )
            for first, last in ranges
        ],
        app.signature(
            "tasks.merge_document", args=(document_id, pages), soft_time_limit=merge.soft, time_limit=merge.hard
        ),
        matter_id=matter_id,
        document_id=document_id,
        ranges=ranges,
        metadata={"filename": filename, "pages": pages},
        title=filename,
        costs=_costs(found, ranges, options),
        kind=f"{options.engine} {options.language} {options.dpi} dpi",
        lane=lane_of(document_id, pages=pages, chunk_pages=settings.ocr_chunk_pages, spread=settings.ocr_queues),
        app=app,
    ).apply_async()


def _known_faults(found: Preflight, first: int, last: int) -> dict[str, Any]:
    """What the chunk of pages ``first`` to ``last`` is told of the document; nothing where all is well."""
    broken = [(page, reason) for page, reason in found.broken_pages if first <= page <= last]
    missing = found.missing_pages if first == 1 else ()
    return {**({"missing_pages": missing} if missing else {}), **({"broken_pages": broken} if broken else {})}


def _costs(found: Preflight, ranges: list[tuple[int, int]], options: OcrOptions) -> list[float] | None:
    """What each chunk is expected to cost; None where nothing is known but its pages."""
    if len(found.weights) != found.pages:
        return None
    pages = page_costs(found.weights, keeps_text=options.mode != "force", asks_for=options.asks_for)
    return [sum(pages[first - 1 : last]) for first, last in ranges]


def _withdraw(store: DocumentStore, document_id: str) -> None:
    """Take back what was begun: a job whose rows are there would be started later, and find no original."""
    with suppress(Exception):
        job = progress.jobs.latest_for_document(document_id)
        if job is not None:
            progress.cancel(job.job_id)
    try:
        store.delete_document(document_id)
    except OSError as error:
        logger.warning("original_left_behind", document_id=document_id, error=type(error).__name__)
