"""The two tasks of a job: read a range of pages, and merge what was read. The work is done elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from celery import Task

from celery_progress_ext import ids
from tasks.celery_app import app, progress, settings
from tasks.documents import DocumentStore
from tasks.engines import OcrEngine, make_engine
from tasks.limits import merge_seconds
from tasks.merge import merge
from tasks.options import OcrOptions
from tasks.page_results import PageResult, PageStatus, sentence
from tasks.pdf.render import PageRenderer
from tasks.recognition import recognise_pages

#: Errors worth a retry: a store that cannot be reached, a machine short of memory. A file that is missing or cannot be
#: read stays so. Redis errors are handled by the library.
_RETRIES: dict[str, Any] = {
    "autoretry_for": (OSError, MemoryError),
    "dont_autoretry_for": (FileNotFoundError, PermissionError),
    "max_retries": 3,
    "retry_backoff": 2,
    "retry_backoff_max": 60,
    "retry_jitter": True,
}


@cache
def _store() -> DocumentStore:
    return DocumentStore(settings.documents_url, files_group=settings.files_group)


@lru_cache(maxsize=2)
def _engine(name: str, language: str) -> OcrEngine:
    """Kept by the process, made after the fork: loading the language costs as much as a page."""
    return make_engine(name, language)


@app.task(bind=True, name="tasks.ocr_chunk", **_RETRIES)  # type: ignore[untyped-decorator]
def ocr_chunk(
    self: Task,
    document_id: str,
    page_start: int,
    page_end: int,
    options: dict[str, Any] | None = None,
    missing_pages: Sequence[int] = (),
) -> str:
    """Recognise pages ``page_start`` to ``page_end`` (from 1, inclusive); the reference to their results.

    :param options: ``OcrOptions`` as a dictionary; the deployment's where there are none.
    :param missing_pages: pages that the document names and does not contain. No chunk has them; the first names them.
    """
    for page in missing_pages:
        progress.reservation(self, page=page, message=sentence(page, PageStatus.MISSING, "page_missing"))
    chosen = OcrOptions.default(settings) if options is None else OcrOptions.from_dict(options)
    timeout = settings.ocr_page_timeout
    results: list[PageResult] = []
    with (
        _store().open_original(document_id) as original,
        PageRenderer(original, dpi=chosen.dpi, mode=chosen.mode, timeout=timeout) as renderer,
    ):
        pages = range(page_start, page_end + 1)
        for result in recognise_pages(
            pages,
            renderer,
            _engine(chosen.engine, chosen.language),
            page_timeout=timeout,
            asks_for=chosen.asks_for,
            rotate_pages=chosen.rotate_pages,
        ):
            results.append(result)
            if result.status.reservation:
                progress.reservation(self, page=result.page, message=result.message or "")
            progress.report(self, done=len(results), total=len(pages))
    job_id, chunk_index = _place(self)
    return _store().write_chunk(job_id, chunk_index, progress.attempt(self), results)


@app.task(bind=True, name="tasks.merge_document", **_RETRIES)  # type: ignore[untyped-decorator]
def merge_document(self: Task, references: list[str], document_id: str, pages: int) -> str:
    """Make and publish the outputs from the chunks that were completed; the job's id, by which they are found."""
    job_id, _ = _place(self)
    with _store().open_original(document_id) as original, tempfile.TemporaryDirectory() as folder:
        outputs = merge(
            original,
            Path(folder),
            _read(self, references, pages),
            document_id=document_id,
            pages=pages,
            timeout=merge_seconds(pages),
        )
        # Raises where another attempt took over: its outputs are not replaced by older ones.
        progress.report(self, done=pages, total=pages)
        _store().publish_outputs(job_id, progress.attempt(self), outputs)
    return job_id


def _read(task: Task, references: list[str], pages: int) -> Iterator[PageResult]:
    """The pages of one chunk after the other, reported as they are passed on."""
    for reference in references:
        results = _store().read_chunk(reference)
        yield from results
        progress.report(task, done=results[-1].page, total=pages)


def _place(task: Task) -> tuple[str, int]:
    """The job and the chunk that a task works for; a task called by itself is a job of its own."""
    place = ids.parse(task.request.id)
    return (task.request.id, 0) if place is None else (place.job_id, place.chunk_index or 0)
