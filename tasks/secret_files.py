"""Secrets in files that only their owner reads."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from uuid import uuid4

from celery_progress_ext.private_files import PrivateFiles


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; it appears with its whole content."""
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    PrivateFiles().make_file(draft)
    draft.write_text(text)
    os.replace(draft, path)


def kept_secret(path: Path) -> str:
    """The secret in the file, made when it is not there; of processes that start at once, one makes it.

    :raises OSError: where it can be neither read nor made.
    """
    files = PrivateFiles()
    files.make_folder(path.parent)
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    while True:
        try:
            text = path.read_text()
        except FileNotFoundError:
            text = ""
        if text:
            files.tighten(path)
            return text
        path.unlink(missing_ok=True)  # it was left empty
        write_private(draft, secrets.token_urlsafe(48))
        try:
            os.link(draft, path)
        except FileExistsError:
            continue
        finally:
            draft.unlink()
