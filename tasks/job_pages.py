"""A job's pages one by one, while it runs and afterwards: what is known of each, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from celery_progress_ext import CeleryProgress, ChunkStatus
from celery_progress_ext.exceptions import JobNotFound
from celery_progress_ext.storage import lookups
from tasks.page_results import PageResult, PageStatus, sentence
from tasks.page_store import PageStore, StoredPage

#: Files of finished chunks whose listing is kept; each is some 10 KB of memory for 25 pages.
_KEPT_LISTINGS = 1024


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of pages, both ends inclusive."""

    index: int
    page_start: int
    page_end: int
    status: ChunkStatus


@dataclass(frozen=True, slots=True)
class PageListing:
    """What is known of a page, without its words. ``run`` is the run of the job that read it."""

    page: int
    run: int
    status: PageStatus
    reason: str | None
    message: str | None
    confidence: float | None
    doubtful: bool

    @classmethod
    def of(cls, stored: StoredPage) -> PageListing:
        """The listing of a stored page."""
        result = stored.result
        return cls(
            result.page, stored.run, result.status, result.reason, result.message, result.confidence, result.doubtful
        )


class JobPages:
    """Reads pages of jobs, whose rows are in ``progress`` and whose files in ``store``.

    :raises JobNotFound: from every method, when there is no such job.
    :raises OSError: for a store that cannot be reached; trying again may help.
    """

    def __init__(self, progress: CeleryProgress, store: PageStore) -> None:
        self._progress = progress
        self._store = store
        self._listing_of_file = lru_cache(maxsize=_KEPT_LISTINGS)(self._read_listing)

    def listed(self, job_id: str, *, after: int, limit: int) -> list[dict[str, Any]]:
        """What is known of the pages behind ``after``, in order, at most ``limit``.

        Each has ``page``, ``status`` (null while it is not read), ``reason``, ``message``, ``confidence``,
        ``doubtful``, ``chunk_index`` and ``chunk_status``.
        """
        run, chunks = self._run(job_id), self.chunks(job_id)
        asked = range(after + 1, after + limit + 1)
        wanted = [chunk for chunk in chunks if chunk.page_end >= asked[0] and chunk.page_start <= asked[-1]]
        # Behind the rows: a chunk that they call completed has its file.
        files = self._store.chunk_files(job_id) if wanted else {}
        rows: list[dict[str, Any]] = []
        for chunk in wanted:
            known = self._known(job_id, chunk, run, files)
            pages = range(max(chunk.page_start, asked[0]), min(chunk.page_end, asked[-1]) + 1)
            rows += [_row(page, chunk, known.get(page)) for page in pages]
        return rows

    def result(self, job_id: str, page: int) -> PageResult | None:
        """What was read on a page; None while it is not there, or was never read.

        :raises LookupError: when the document has no such page.
        """
        chunk = next((each for each in self.chunks(job_id) if each.page_start <= page <= each.page_end), None)
        if chunk is None:
            raise LookupError(page)
        stored = self._store.pages(job_id, chunk.index, run=self._run(job_id)).get(page)
        return None if stored is None else stored.result

    def state(self, job_id: str) -> tuple[int, list[int]]:
        """The run that the job is in, and its chunks: what ``PageStore.results`` asks for."""
        return self._run(job_id), [chunk.index for chunk in self.chunks(job_id)]

    def chunks(self, job_id: str) -> Sequence[Chunk]:
        """The ranges of the job, in order."""
        return [
            Chunk(row["chunk_index"], row["page_start"], row["page_end"], ChunkStatus(row["status"]))
            for row in self._progress.jobs.chunks(job_id)
        ]

    def _run(self, job_id: str) -> int:
        job = lookups.job(self._progress.database, job_id)
        if job is None:
            raise JobNotFound
        return job.run

    def _known(self, job_id: str, chunk: Chunk, run: int, files: Mapping[int, Sequence[str]]) -> dict[int, PageListing]:
        if chunk.status is not ChunkStatus.COMPLETED:
            stored = self._store.pages(job_id, chunk.index, run=run)
            return {page: PageListing.of(each) for page, each in stored.items()}
        listings = [each for path in files.get(chunk.index, ()) for each in self._listing_of_file(path)]
        return {each.page: each for each in sorted(listings, key=lambda each: each.run)}

    def _read_listing(self, path: str) -> tuple[PageListing, ...]:
        return tuple(PageListing.of(stored) for stored in self._store.file(path))


def _row(page: int, chunk: Chunk, known: PageListing | None) -> dict[str, Any]:
    row: dict[str, Any] = {"page": page}
    if known is not None:
        row |= {
            "status": known.status.value,
            "reason": known.reason,
            "message": known.message,
            "confidence": known.confidence,
            "doubtful": known.doubtful,
        }
    else:
        row |= {"status": None, "reason": None, "message": None, "confidence": None, "doubtful": False}
        if chunk.status is ChunkStatus.FAILED:
            status, reason = PageStatus.MISSING, "chunk_failed"
            row |= {"status": status.value, "reason": reason, "message": sentence(page, status, reason)}
    return {**row, "chunk_index": chunk.index, "chunk_status": chunk.status.value}
