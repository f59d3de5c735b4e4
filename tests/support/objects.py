"""``objects://PATH``: an object store that processes share. It has no local paths, and no folders to be made."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

PROTOCOL = "objects"


class Objects(DirFileSystem):  # type: ignore[misc]
    """Files of this machine, by keys that are their paths."""

    protocol = PROTOCOL

    def __init__(self, **options: Any) -> None:
        super().__init__(path="/", fs=LocalFileSystem(auto_mkdir=True), **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix(f"{PROTOCOL}://").strip("/")


def register() -> None:
    """Have this process know such URLs."""
    fsspec.register_implementation(PROTOCOL, Objects, clobber=True)
