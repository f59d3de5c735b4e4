"""Copies of originals that are kept elsewhere, as local files: fetched once a process, not once a chunk.

They are in a folder of the process's own, which goes with the process. Where it was killed, the next one that needs
copies removes its folder: nobody holds the lock in it any more.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

#: Copies that are kept while nobody uses them: the chunks of two documents may take turns.
_KEPT = 2
_PREFIX = "ocr-originals-"
_LOCK = "lock"


@dataclass
class _Copy:
    path: Path
    users: int = 0


class OriginalsCache:
    """The copies of one process; made in a process of a pool, not before the fork."""

    def __init__(self, fetch: Callable[[str, Path], None]) -> None:
        """``fetch``: copies the original of a document to a local path."""
        self._fetch = fetch
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._owner = 0

    @contextmanager
    def open(self, document_id: str) -> Iterator[Path]:
        """The original as a local file to be read; it stays there at least for the while."""
        copy = self._take(document_id)
        try:
            yield copy.path
        finally:
            with self._lock:
                copy.users -= 1
                self._drop_unused()

    def _take(self, document_id: str) -> _Copy:
        with self._lock:
            if self._folder is None or self._owner != os.getpid():
                self._folder, self._owner = _own_folder(), os.getpid()
                self._copies.clear()
            copy = self._copies.get(document_id)
            if copy is None:
                copy = _Copy(self._folder / f"{document_id}.pdf")
                draft = copy.path.with_suffix(".draft")
                try:
                    self._fetch(document_id, draft)
                    draft.rename(copy.path)
                finally:
                    draft.unlink(missing_ok=True)
                self._copies[document_id] = copy
            self._copies.move_to_end(document_id)
            copy.users += 1
            return copy

    def _drop_unused(self) -> None:
        unused = [document_id for document_id, copy in self._copies.items() if not copy.users]
        for document_id in unused[: max(0, len(self._copies) - _KEPT)]:
            self._copies.pop(document_id).path.unlink(missing_ok=True)


def _own_folder() -> Path:
    """A new folder whose lock this process holds as long as it lives."""
    base = Path(tempfile.gettempdir())
    for folder in base.glob(f"{_PREFIX}*"):
        _remove_if_left_behind(folder)
    draft = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}"))
    descriptor = os.open(draft / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    # Under its own name only when it is locked: another process may be looking for those that are not.
    folder = draft.rename(draft.with_name(draft.name[1:]))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _remove_if_left_behind(folder: Path) -> None:
    # It is in use, or not ours.
    with suppress(OSError):
        descriptor = os.open(folder / _LOCK, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
