"""What the processes of `up` log: a file each in the data directory, of a bounded size, for their owner alone."""

from __future__ import annotations

import logging
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path

from celery_progress_ext.private_files import PrivateFiles

#: Of one file, and how many older ones are kept beside it.
MAX_BYTES, KEPT_FILES = 5_000_000, 2


class LogFiles:
    """Writes lines to ``FOLDER/NAME.log``; safe in several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        PrivateFiles().make_folder(folder)
        self._handlers: dict[str, RotatingFileHandler] = {}
        self._lock = threading.Lock()

    def write(self, name: str, line: str) -> None:
        """Add a line to the log of a process."""
        with self._lock:
            handler = self._handlers.get(name) or self._open(name)
        handler.emit(logging.makeLogRecord({"msg": line}))

    def path(self, name: str) -> Path:
        """The file of a process."""
        return self.folder / f"{name}.log"

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            for handler in self._handlers.values():
                handler.close()
            self._handlers.clear()

    def _open(self, name: str) -> RotatingFileHandler:
        PrivateFiles().make_file(self.path(name))
        handler = RotatingFileHandler(
            self.path(name), maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8", errors="replace"
        )
        self._handlers[name] = handler
        return handler
