"""Where originals, the pages that were read and outputs are kept: any place that fsspec has a URL for.

::

    documents/{document_id}/original.pdf
    jobs/{job_id}/attempts/{attempt}/result.{suffix}
    jobs/{job_id}/result.{suffix}
    jobs/{job_id}/partial/{digest}.pdf

and what ``tasks.page_store`` and ``tasks.page_deaths`` keep. Local paths never leave this machine: what crosses the
broker are ids and references. Local files are for their owner alone, or for one group as well, whatever the umask is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from celery_progress_ext.private_files import PrivateFiles
from tasks.files import Files, checked
from tasks.originals import OriginalsCache
from tasks.page_deaths import PageDeaths
from tasks.page_store import PageStore

#: The files of a result, in the order they are published: who sees the PDF can count on the others.
OUTPUT_SUFFIXES = ("json", "txt", "hocr", "pdf")


class DocumentStore:
    """Keeps the files of documents and jobs under one URL.

    :param files_group: a group that shares local files; else only their owner reads them.
    :raises InvalidSetting: where this machine has no such group.
    :raises ValueError: from every method, for an id or suffix that is not one of ours.
    :raises FileNotFoundError: from every reader, for what is not there.
    :raises OSError: for a store that cannot be reached; trying again may help.
    """

    def __init__(self, url: str, *, files_group: str | None = None) -> None:
        self._files = Files(url, PrivateFiles.shared_with(files_group))
        self._copies = OriginalsCache(lambda document_id, path: self._files.fetch(_original(document_id), path))
        self.pages = PageStore(self._files)
        self.page_deaths = PageDeaths(self._files)

    def tighten(self) -> None:
        """Take from local files that are there already what others may do."""
        self._files.tighten()

    def probe(self) -> None:
        """Whether something can be kept now.

        :raises OSError: when it cannot.
        """
        self._files.probe()

    def put_original(self, document_id: str, path: Path) -> None:
        """Keep a copy of the file at ``path`` as the document's original."""
        self._files.put_file(path, _original(document_id))

    def has_original(self, document_id: str) -> bool:
        """Whether there is a document of this id."""
        return self._files.is_file(_original(document_id))

    @contextmanager
    def open_original(self, document_id: str) -> Iterator[Path]:
        """The original as a local file to be read: itself where the store is local, else a copy, which this process
        keeps for the next chunk.
        """
        path = self._files.local_path(_original(document_id))
        if path is None:
            with self._copies.open(document_id) as copy:
                yield copy
            return
        if not path.is_file():
            raise FileNotFoundError(f"The original of document {document_id} is not there.")
        yield path

    def publish_outputs(self, job_id: str, attempt: int, outputs: Mapping[str, Path]) -> None:
        """Make the files at these paths, one per suffix, the job's result.

        All are uploaded to the attempt's own place first, so that nothing is replaced before everything is there.
        """
        drafts = {suffix: _output(job_id, suffix, attempt) for suffix in outputs}
        for suffix, draft in drafts.items():
            self._files.put_file(outputs[suffix], draft)
        for suffix in sorted(drafts, key=OUTPUT_SUFFIXES.index):
            self._files.rename(drafts[suffix], _output(job_id, suffix))
        self._files.delete_folder(_partials(job_id))

    def has_output(self, job_id: str, suffix: str) -> bool:
        """Whether the job's result is there in this form."""
        return self._files.is_file(_output(job_id, suffix))

    def open_output(self, job_id: str, suffix: str) -> tuple[BinaryIO, int]:
        """The job's result as an open binary file, to be closed by the caller, and its size in bytes."""
        return self._files.open(_output(job_id, suffix))

    def put_partial(self, job_id: str, digest: str, path: Path) -> None:
        """Keep the PDF of the pages that were there when ``PageStore.digest`` was this, in place of earlier ones."""
        folder, name = _partials(job_id), _partial(digest)
        self._files.put_file(path, f"{folder}/{name}")
        self._files.delete(f"{folder}/{other}" for other in self._files.names(folder) if other != name)

    def open_partial(self, job_id: str, digest: str) -> tuple[BinaryIO, int]:
        """What ``put_partial`` kept, as ``open_output`` does."""
        return self._files.open(f"{_partials(job_id)}/{_partial(digest)}")

    def delete_document(self, document_id: str) -> None:
        """Remove the document's original; it need not be there."""
        self._files.delete_folder(f"documents/{checked(document_id)}")

    def delete_job(self, job_id: str) -> None:
        """Remove the job's pages and outputs; they need not be there."""
        self._files.delete_folder(f"jobs/{checked(job_id)}")


def _original(document_id: str) -> str:
    return f"documents/{checked(document_id)}/original.pdf"


def _output(job_id: str, suffix: str, attempt: int | None = None) -> str:
    if suffix not in OUTPUT_SUFFIXES:
        raise ValueError(f"an output is one of {', '.join(OUTPUT_SUFFIXES)}, not {suffix!r}")
    folder = f"jobs/{checked(job_id)}"
    return f"{folder}/result.{suffix}" if attempt is None else f"{folder}/attempts/{attempt:d}/result.{suffix}"


def _partials(job_id: str) -> str:
    return f"jobs/{checked(job_id)}/partial"


def _partial(digest: str) -> str:
    return f"{checked(digest)}.pdf"
