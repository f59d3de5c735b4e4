"""Where originals, chunk results and outputs are kept: any place that fsspec has a URL for.

::

    documents/{document_id}/original.pdf
    jobs/{job_id}/chunks/{index}-{attempt}.json.gz
    jobs/{job_id}/attempts/{attempt}/result.{suffix}
    jobs/{job_id}/result.{suffix}

A name appears with its whole content or not at all: local files are renamed into place, and on an object store a
put does the same. Local paths never leave this machine: what crosses the broker are ids and references. Local files are
for their owner alone, or for one group as well, whatever the umask is.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from celery_progress_ext.private_files import PrivateFiles
from tasks.page_results import PageResult

#: The files of a result, in the order they are published: who sees the PDF can count on the others.
OUTPUT_SUFFIXES = ("json", "txt", "pdf")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REFERENCE = re.compile(rf"jobs/{_ID.pattern}/chunks/\d+-\d+\.json\.gz")


class DocumentStore:
    """Keeps the files of documents and jobs under one URL.

    :param files_group: a group that shares local files; else only their owner reads them.
    :raises InvalidSetting: where this machine has no such group.
    :raises ValueError: from every method, for an id, suffix or reference that is not one of ours.
    :raises FileNotFoundError: from every reader, for what is not there.
    :raises OSError: for a store that cannot be reached; trying again may help.
    """

    def __init__(self, url: str, *, files_group: str | None = None) -> None:
        self._files = PrivateFiles.shared_with(files_group)
        self._fs, root = fsspec.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def tighten(self) -> None:
        """Take from local files that are there already what others may do."""
        if self._local:
            self._files.tighten(Path(self._root))

    def probe(self) -> None:
        """Whether something can be kept now.

        :raises OSError: when it cannot.
        """
        if self._local:
            self._files.make_folder(Path(self._root))
            with tempfile.TemporaryFile(dir=self._root):
                return
        self._fs.invalidate_cache()
        top = self._root.strip("/").split("/", 1)[0]
        if not self._fs.exists(top):
            raise FileNotFoundError(f"{top} is not there")

    def put_original(self, document_id: str, path: Path) -> None:
        """Keep a copy of the file at ``path`` as the document's original."""
        self._put_file(path, self._original(document_id))

    def has_original(self, document_id: str) -> bool:
        """Whether there is a document of this id."""
        return bool(self._fs.isfile(self._original(document_id)))

    @contextmanager
    def open_original(self, document_id: str) -> Iterator[Path]:
        """The original as a local file to be read: itself where the store is local, else a copy for the while."""
        original = self._original(document_id)
        if self._local:
            if not Path(original).is_file():
                raise FileNotFoundError(f"The original of document {document_id} is not there.")
            yield Path(original)
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "original.pdf"
            self._fs.get_file(original, str(copy))
            yield copy

    def write_chunk(self, job_id: str, chunk_index: int, attempt: int, pages: Iterable[PageResult]) -> str:
        """Keep a chunk's results; the answer is the reference to read them back by."""
        reference = f"jobs/{_checked(job_id)}/chunks/{chunk_index:d}-{attempt:d}.json.gz"
        content = json.dumps([page.to_dict() for page in pages], separators=(",", ":"), ensure_ascii=False)
        # No time stamp inside: the same results are the same bytes.
        self._put_bytes(gzip.compress(content.encode(), mtime=0), f"{self._root}/{reference}")
        return reference

    def read_chunk(self, reference: str) -> list[PageResult]:
        """What ``write_chunk`` kept."""
        if not _REFERENCE.fullmatch(reference):
            raise ValueError(f"not a reference to a chunk's results: {reference!r}")
        content = gzip.decompress(self._fs.cat_file(f"{self._root}/{reference}"))
        return [PageResult.from_dict(record) for record in json.loads(content)]

    def publish_outputs(self, job_id: str, attempt: int, outputs: Mapping[str, Path]) -> None:
        """Make the files at these paths, one per suffix, the job's result.

        All are uploaded to the attempt's own place first, so that nothing is replaced before everything is there.
        """
        drafts = {suffix: self._output(job_id, suffix, attempt) for suffix in outputs}
        for suffix, draft in drafts.items():
            self._put_file(outputs[suffix], draft)
        for suffix in sorted(drafts, key=OUTPUT_SUFFIXES.index):
            self._rename(drafts[suffix], self._output(job_id, suffix))

    def has_output(self, job_id: str, suffix: str) -> bool:
        """Whether the job's result is there in this form."""
        return bool(self._fs.isfile(self._output(job_id, suffix)))

    def open_output(self, job_id: str, suffix: str) -> tuple[BinaryIO, int]:
        """The job's result as an open binary file, to be closed by the caller, and its size in bytes."""
        path = self._output(job_id, suffix)
        file = cast(BinaryIO, self._fs.open(path, "rb"))
        return file, int(self._fs.size(path))

    def delete_document(self, document_id: str) -> None:
        """Remove the document's original; it need not be there."""
        self._delete(f"{self._root}/documents/{_checked(document_id)}")

    def delete_job(self, job_id: str) -> None:
        """Remove the job's chunk results and outputs; they need not be there."""
        self._delete(f"{self._root}/jobs/{_checked(job_id)}")

    def _original(self, document_id: str) -> str:
        return f"{self._root}/documents/{_checked(document_id)}/original.pdf"

    def _output(self, job_id: str, suffix: str, attempt: int | None = None) -> str:
        if suffix not in OUTPUT_SUFFIXES:
            raise ValueError(f"an output is one of {', '.join(OUTPUT_SUFFIXES)}, not {suffix!r}")
        folder = f"{self._root}/jobs/{_checked(job_id)}"
        return f"{folder}/result.{suffix}" if attempt is None else f"{folder}/attempts/{attempt:d}/result.{suffix}"

    def _put_file(self, source: Path, target: str) -> None:
        if not self._local:
            self._fs.put_file(str(source), target)
            return
        with self._in_place(target) as draft:
            shutil.copyfile(source, draft)

    def _put_bytes(self, content: bytes, target: str) -> None:
        if not self._local:
            self._fs.pipe_file(target, content)
            return
        with self._in_place(target) as draft:
            draft.write_bytes(content)

    def _rename(self, source: str, target: str) -> None:
        if self._local:
            os.replace(source, target)
        else:
            self._fs.mv(source, target)

    def _delete(self, folder: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm(folder, recursive=True)

    @contextmanager
    def _in_place(self, target: str) -> Iterator[Path]:
        """A path to write to, that becomes ``target`` when all is written and goes away otherwise."""
        path = Path(target)
        self._files.make_folder(path.parent)
        draft = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            self._files.make_file(draft)
            yield draft
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def _checked(identifier: str) -> str:
    """The id, if it can be a name in a path and nothing more."""
    if not _ID.fullmatch(identifier):
        raise ValueError(f"not an id: {identifier!r}")
    return identifier
