"""Files under one URL that fsspec knows. A name appears with its whole content or not at all: local files are renamed
into place, and on an object store a put does the same.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from celery_progress_ext.private_files import PrivateFiles

_S3 = "s3://"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Files:
    """Reads and writes files by their path below the URL.

    :raises FileNotFoundError: from every reader, for what is not there.
    :raises OSError: for a store that cannot be reached; trying again may help.
    """

    def __init__(self, url: str, private: PrivateFiles | None = None) -> None:
        """``private``: who may read local files; their owner alone unless given."""
        self._private = private or PrivateFiles()
        # A list of names that was kept would not show what another process has written since.
        self._fs, root = _s3(url) if url.startswith(_S3) else fsspec.url_to_fs(url, use_listings_cache=False)
        self._root = str(root).rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        self._is_s3 = url.startswith(_S3)

    def tighten(self) -> None:
        """Take from local files that are there already what others may do."""
        if self._local:
            self._private.tighten(Path(self._root))

    def probe(self) -> None:
        """Whether something can be kept now.

        :raises OSError: when it cannot.
        """
        if self._local:
            self._private.make_folder(Path(self._root))
            with tempfile.TemporaryFile(dir=self._root):
                return
        if self._is_s3:
            self._fs.probe(self._root)
            return
        self._fs.invalidate_cache()
        top = self._root.strip("/").split("/", 1)[0]
        if not self._fs.exists(top):
            raise FileNotFoundError(f"{top} is not there")

    def local_path(self, path: str) -> Path | None:
        """Where the file is on this machine; None where it is elsewhere."""
        return Path(self._at(path)) if self._local else None

    def is_file(self, path: str) -> bool:
        """Whether it is there."""
        return bool(self._fs.isfile(self._at(path)))

    def names(self, folder: str) -> list[str]:
        """What is in a folder, unfinished files left out; nothing where it is not there."""
        try:
            found = self._fs.ls(self._at(folder), detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if not name.startswith("."))

    def read(self, path: str) -> bytes:
        """A file's content."""
        return bytes(self._fs.cat_file(self._at(path)))

    def read_all(self, paths: Iterable[str]) -> dict[str, bytes]:
        """The contents of those that are there, by path; an object store is asked for all of them at once."""
        wanted = {self._at(path): path for path in paths}
        found: Mapping[str, bytes] = self._fs.cat(list(wanted), on_error="omit") if wanted else {}
        return {wanted[path]: bytes(content) for path, content in found.items()}

    def open(self, path: str) -> tuple[BinaryIO, int]:
        """A file as an open binary file, to be closed by the caller, and its size in bytes."""
        file = cast(BinaryIO, self._fs.open(self._at(path), "rb"))
        return file, int(self._fs.size(self._at(path)))

    def fetch(self, path: str, target: Path) -> None:
        """Copy a file to a local path."""
        self._fs.get_file(self._at(path), str(target))

    def put_file(self, source: Path, path: str) -> None:
        """Keep a copy of a local file."""
        if not self._local:
            self._fs.put_file(str(source), self._at(path))
            return
        with self._in_place(self._at(path)) as draft:
            shutil.copyfile(source, draft)

    def put_bytes(self, content: bytes, path: str) -> None:
        """Keep a content."""
        if not self._local:
            self._fs.pipe_file(self._at(path), content)
            return
        with self._in_place(self._at(path)) as draft:
            draft.write_bytes(content)

    def rename(self, source: str, target: str) -> None:
        """Give a file another name, in place of what had it."""
        if self._local:
            os.replace(self._at(source), self._at(target))
        else:
            self._fs.mv(self._at(source), self._at(target))

    def delete(self, paths: Iterable[str]) -> None:
        """Remove files, and nothing else; they need not be there."""
        if self._local:
            for path in paths:
                Path(self._at(path)).unlink(missing_ok=True)
        elif there := list(paths):
            with suppress(FileNotFoundError):
                self._fs.rm([self._at(path) for path in there])

    def delete_folder(self, folder: str) -> None:
        """Remove a folder with all that is in it; it need not be there."""
        with suppress(FileNotFoundError):
            self._fs.rm(self._at(folder), recursive=True)

    @contextmanager
    def _in_place(self, target: str) -> Iterator[Path]:
        """A path to write to, that becomes ``target`` when all is written and goes away otherwise."""
        path = Path(target)
        self._private.make_folder(path.parent)
        draft = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            self._private.make_file(draft)
            yield draft
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"


def _s3(url: str) -> tuple[Any, str]:
    # Only where it is used: it is an extra.
    from tasks.s3 import S3

    return S3(), url.removeprefix(_S3)


def checked(identifier: str) -> str:
    """The id, if it can be a name in a path and nothing more.

    :raises ValueError: when it cannot.
    """
    if not _ID.fullmatch(identifier):
        raise ValueError(f"not an id: {identifier!r}")
    return identifier
