"""Uploads go to disk as they arrive: no part of a document is held in memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from flask import Flask, Request
from werkzeug.datastructures import FileStorage

from web.problems import Problem

#: What a form may take beside its file, in bytes.
_FORM_BYTES = 64 * 1024
_FORM_PARTS = 20
_NAME_LENGTH = 200
_FALLBACK_NAME = "document.pdf"


class StreamingRequest(Request):
    """A request whose file parts go to named temporary files, which others can open by path."""

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        return tempfile.NamedTemporaryFile(prefix="upload-", suffix=".pdf")


def install(app: Flask, *, max_bytes: int) -> None:
    """Limit the uploads of ``app``; the limit also holds while a body of unknown length is read."""
    app.request_class = StreamingRequest
    app.config.update(
        MAX_CONTENT_LENGTH=max_bytes + _FORM_BYTES,
        MAX_FORM_PARTS=_FORM_PARTS,
        MAX_UPLOAD_BYTES=max_bytes,
    )


@contextlib.contextmanager
def on_disk(upload: FileStorage, *, max_bytes: int) -> Iterator[Path]:
    """The uploaded file's path; it is deleted at the end.

    :raises Problem: 413 when it is larger than ``max_bytes``.
    """
    file = upload.stream
    try:
        file.flush()
        path = Path(file.name)
        if path.stat().st_size > max_bytes:
            raise too_large(max_bytes)
        yield path
    finally:
        # The file may have been moved into the document store.
        with contextlib.suppress(FileNotFoundError):
            upload.close()


def refusal(request: Request, max_bytes: int) -> Problem:
    """413 for a form that was not read to its end, with the true reason."""
    limit = max_bytes + _FORM_BYTES
    read = request.content_length if request.content_length is not None else request.stream.tell()
    if read >= limit:
        return too_large(max_bytes)
    return Problem(
        413,
        "too-many-parts",
        f"The form has more than {_FORM_PARTS} parts, or fields that are too large beside its file; "
        "send one file and a few short fields.",
        limit=_FORM_PARTS,
    )


def too_large(max_bytes: int) -> Problem:
    """413, with the limit."""
    return Problem(
        413,
        "too-large",
        f"The file is larger than {max_bytes // 1_000_000} MB, the most that is accepted.",
        limit=max_bytes,
    )


def display_name(filename: str | None) -> str:
    """A file's own name, for people: no folders, no control characters, at most 200 characters."""
    name = (filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(character for character in name if character.isprintable()).strip()
    stem, suffix = os.path.splitext(name)
    return (stem[: _NAME_LENGTH - len(suffix)] + suffix)[:_NAME_LENGTH] or _FALLBACK_NAME
