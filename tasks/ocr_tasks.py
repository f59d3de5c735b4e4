"""The two tasks of a job: read a range of pages, and merge what was read. The work is done elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from celery import Task

from celery_progress_ext import ProgressError, ids
from tasks.celery_app import app, progress, settings
from tasks.documents import DocumentStore
from tasks.engines import OcrEngine, make_engine
from tasks.limits import merge_seconds
from tasks.merge import merge
from tasks.options import OcrOptions
from tasks.page_deaths import most_deaths
from tasks.page_results import PageResult, PageStatus, sentence
from tasks.page_store import StoredPage, chunk_of
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
    broken_pages: Sequence[tuple[int, str]] = (),
) -> str:
    """Recognise pages ``page_start`` to ``page_end`` (from 1, inclusive); the reference to their results.

    :param options: ``OcrOptions`` as a dictionary; the deployment's where there are none.
    :param missing_pages: pages that the document names and does not contain. No chunk has them; the first names them.
    :param broken_pages: pages of which nothing is left to be read, each with the reason.
    """
    missing = {page: sentence(page, PageStatus.MISSING, "page_missing") for page in missing_pages}
    for page, message in missing.items():
        progress.reservation(self, page=page, message=message)
    chosen = OcrOptions.default(settings) if options is None else OcrOptions.from_dict(options)
    job_id, chunk_index = _place(self)
    run, pages = _run(self), range(page_start, page_end + 1)
    there = _store().pages.pages(job_id, chunk_index, run=run, options=chosen.digest)
    done = [there[page] for page in pages if page in there]
    for stored in done:
        _report(self, stored.result, missing)
    if done:
        progress.report(self, done=len(done), total=len(pages))
    unread = [page for page in pages if page not in there]
    broken = dict(broken_pages)
    found = (PageResult.because(page, PageStatus.UNREADABLE, broken[page]) for page in unread if page in broken)
    whole = [page for page in unread if page not in broken]
    recognised = _recognised(self, document_id, whole, chosen, run)
    for result in chain(found, recognised):
        done.append(StoredPage(result=result, run=run, options=chosen.digest))
        # Stored before it is reported: what is shown as read can be read.
        _store().pages.write_page(job_id, chunk_index, done[-1])
        _report(self, result, missing)
        progress.report(self, done=len(done), total=len(pages))
    done.sort(key=lambda page: page.result.page)
    return _store().pages.write_chunk(job_id, chunk_index, progress.attempt(self), done)


def _report(task: Task, result: PageResult, missing: Mapping[int, str]) -> None:
    """Name a page that was not wholly read.

    :param missing: what was said of the places in the file's page tree that have no page: another page may have the
        number of such a place, and both are named.
    """
    if result.status.reservation:
        sentences = filter(None, [missing.get(result.page), result.message])
        progress.reservation(task, page=result.page, message=" ".join(sentences))


def _recognised(
    task: Task, document_id: str, pages: Sequence[int], chosen: OcrOptions, run: int
) -> Iterator[PageResult]:
    """Read these pages, but for a first one that ended each process which tried; where there are none, the original is
    not looked at.
    """
    if not pages:
        return
    job_id, chunk_index = _place(task)
    timeout = settings.ocr_page_timeout
    # A first attempt may not be recorded yet.
    attempt = max(1, progress.attempt(task))
    with (
        _store().page_deaths.reading(job_id, chunk_index, run=run, attempt=attempt, page=pages[0]) as deaths,
        _store().open_original(document_id) as original,
        PageRenderer(original, dpi=chosen.dpi, mode=chosen.mode, timeout=timeout) as renderer,
    ):
        if deaths >= most_deaths(progress.settings.max_attempts):
            yield PageResult.because(pages[0], PageStatus.UNREADABLE, "reader_died", times=deaths)
            pages = pages[1:]
        yield from recognise_pages(
            pages,
            renderer,
            _engine(chosen.engine, chosen.language),
            page_timeout=timeout,
            asks_for=chosen.asks_for,
            rotate_pages=chosen.rotate_pages,
        )


def _run(task: Task) -> int:
    """The run that the task works for; where the database does not say, one before any other: of such pages, a later
    attempt uses only those that were wholly read.
    """
    try:
        return progress.run(task)
    except ProgressError:
        return 0


@app.task(bind=True, name="tasks.merge_document", **_RETRIES)  # type: ignore[untyped-decorator]
def merge_document(self: Task, references: list[str], document_id: str, pages: int) -> str:
    """Make and publish the outputs from the chunks that were completed, and from the pages that others have read before
    they failed; the job's id, by which the outputs are found.
    """
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
    job_id, _ = _place(task)
    completed = {chunk_of(reference): reference for reference in references}
    run = _run(task)
    for chunk_index in sorted({*completed, *_store().pages.chunks(job_id)}):
        if chunk_index in completed:
            results = _store().pages.read_chunk(completed[chunk_index])
        else:
            results = list(_store().pages.results(job_id, [chunk_index], run=run))
        yield from results
        if results:
            progress.report(task, done=results[-1].page, total=pages)


def _place(task: Task) -> tuple[str, int]:
    """The job and the chunk that a task works for; a task called by itself is a job of its own."""
    place = ids.parse(task.request.id)
    return (task.request.id, 0) if place is None else (place.job_id, place.chunk_index or 0)
