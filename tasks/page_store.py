"""The pages of a job's chunks: each in a file of its own when it is read, all of a chunk in one file at its end.

::

    jobs/{job_id}/pages/{chunk}/{run}-{page}.json.gz
    jobs/{job_id}/chunks/{chunk}-{attempt}.json.gz

Two attempts of a chunk may be at work at once, when one was taken for dead. They write the same names with the same
content, and remove pages only by name and behind a file that holds them: what is stored once stays readable.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import structlog

from tasks.files import Files, checked
from tasks.page_results import PageResult

logger = structlog.get_logger(__name__)

_PAGE = re.compile(r"(\d+)-(\d+)\.json\.gz")
_CHUNK = re.compile(r"(\d+)-(\d+)\.json\.gz")
_REFERENCE = re.compile(r"jobs/([^/]+)/chunks/(\d+)-\d+\.json\.gz")
#: The run of pages that version 0.1 stored, which did not note it: before any other.
_UNKNOWN_RUN = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPage:
    """A page's result, the run of the job that read it (from 1), and a digest of the options that it was read with."""

    result: PageResult
    run: int
    options: str

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON."""
        return {"run": self.run, "options": self.options, **self.result.to_dict()}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """The reverse of ``to_dict``."""
        return cls(
            result=PageResult.from_dict(record),
            run=record.get("run", _UNKNOWN_RUN),
            options=record.get("options", ""),
        )

    def counts_in(self, run: int) -> bool:
        """Whether it need not be read again in this run: a retry reads again what was not wholly read."""
        return self.run == run or not self.result.status.reservation


class PageStore:
    """Keeps what chunks read, under the same URL as the documents.

    :raises ValueError: from every method, for an id or reference that is not one of ours.
    :raises FileNotFoundError: from ``read_chunk``, for what is not there.
    :raises OSError: for a store that cannot be reached; trying again may help.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def write_page(self, job_id: str, chunk_index: int, page: StoredPage) -> None:
        """Keep a page that was just read."""
        path = f"{_singles(job_id, chunk_index)}/{page.run:d}-{page.result.page:d}.json.gz"
        self._files.put_bytes(_packed([page]), path)

    def pages(self, job_id: str, chunk_index: int, *, run: int, options: str | None = None) -> dict[int, StoredPage]:
        """What is there of a chunk and counts in this run, by page number.

        :param options: only pages that were read with options of this digest; all unless given.
        """
        # First the single pages: they go only when the file that holds them all is there.
        folder = _singles(job_id, chunk_index)
        singles = self._files.read_all(
            f"{folder}/{name}" for name in self._files.names(folder) if _PAGE.fullmatch(name)
        )
        contents = {**singles, **self._files.read_all(self.chunk_files(job_id).get(chunk_index, ()))}
        found: dict[int, StoredPage] = {}
        for page in (page for path, content in contents.items() for page in _unpacked_or_none(path, content)):
            if page.counts_in(run) and options in (None, page.options):
                known = found.get(page.result.page)
                if known is None or known.run < page.run:
                    found[page.result.page] = page
        return found

    def results(self, job_id: str, chunks: Iterable[int], *, run: int) -> Iterator[PageResult]:
        """Every page that is there of these chunks and counts in this run, ascending, a chunk at a time."""
        for chunk_index in chunks:
            pages = self.pages(job_id, chunk_index, run=run)
            yield from (pages[page].result for page in sorted(pages))

    def chunks(self, job_id: str) -> set[int]:
        """The chunks of which pages may be there."""
        begun = {int(name) for name in self._files.names(f"{_job(job_id)}/pages") if name.isdigit()}
        return begun | set(self.chunk_files(job_id))

    def chunk_files(self, job_id: str) -> dict[int, list[str]]:
        """The files of chunks that were read to their end, by chunk: one for each attempt that was."""
        folder = f"{_job(job_id)}/chunks"
        found: dict[int, list[str]] = {}
        for name in self._files.names(folder):
            if match := _CHUNK.fullmatch(name):
                found.setdefault(int(match[1]), []).append(f"{folder}/{name}")
        return found

    def file(self, path: str) -> list[StoredPage]:
        """The pages of one of ``chunk_files``."""
        return _unpacked(self._files.read(path))

    def digest(self, job_id: str, *, run: int) -> str | None:
        """What changes with each page that comes to be there; None where none is."""
        folder = f"{_job(job_id)}/pages"
        names = [
            f"{each}/{name}"
            for each in self._files.names(folder)
            for name in self._files.names(f"{folder}/{each}")
            if _PAGE.fullmatch(name)
        ]
        names += self._files.names(f"{_job(job_id)}/chunks")
        return hashlib.sha256("\n".join([str(run), *names]).encode()).hexdigest()[:32] if names else None

    def write_chunk(self, job_id: str, chunk_index: int, attempt: int, pages: Iterable[StoredPage]) -> str:
        """Keep a chunk's pages in one file, in place of the single ones; the reference to read them back by."""
        kept = list(pages)
        reference = f"{_job(job_id)}/chunks/{chunk_index:d}-{attempt:d}.json.gz"
        self._files.put_bytes(_packed(kept), reference)
        runs = {page.result.page: page.run for page in kept}
        folder = _singles(job_id, chunk_index)
        found = ((name, _PAGE.fullmatch(name)) for name in self._files.names(folder))
        # A page of a later run is not in this file.
        self._files.delete(
            f"{folder}/{name}" for name, match in found if match and int(match[1]) <= runs.get(int(match[2]), -1)
        )
        return reference

    def read_chunk(self, reference: str) -> list[PageResult]:
        """The pages that ``write_chunk`` kept."""
        chunk_of(reference)
        return [page.result for page in _unpacked(self._files.read(reference))]


def chunk_of(reference: str) -> int:
    """The index of the chunk whose pages the reference is to.

    :raises ValueError: for what is no reference.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(f"not a reference to a chunk's results: {reference!r}")
    checked(match[1])
    return int(match[2])


def _job(job_id: str) -> str:
    return f"jobs/{checked(job_id)}"


def _singles(job_id: str, chunk_index: int) -> str:
    return f"{_job(job_id)}/pages/{chunk_index:d}"


def _packed(pages: Iterable[StoredPage]) -> bytes:
    content = json.dumps([page.to_dict() for page in pages], separators=(",", ":"), ensure_ascii=False)
    # No time stamp inside: the same results are the same bytes.
    return gzip.compress(content.encode(), compresslevel=6, mtime=0)


def _unpacked(content: bytes) -> list[StoredPage]:
    records: list[Mapping[str, Any]] = json.loads(gzip.decompress(content))
    return [StoredPage.from_dict(dict(record)) for record in records]


def _unpacked_or_none(path: str, content: bytes) -> list[StoredPage]:
    """The pages of a file, none where a crash of the machine left it without its content: they are read again."""
    try:
        return _unpacked(content)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        logger.warning("pages_not_usable", path=path, error=f"{type(error).__name__}: {error}")
        return []
