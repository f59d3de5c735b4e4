"""Why does a page show nothing? Renderers leave out an image they cannot decode, and say nothing.

Runs in the renderer's child: the images it decodes are as hostile as the rest of the file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pikepdf
from pikepdf import Name

#: Raised for images that may be sound, but that pikepdf has no decoder or no colours for.
_CANNOT_TELL = (
    pikepdf.DependencyError,
    pikepdf.NotExtractableError,
    pikepdf.UnsupportedImageTypeError,
    NotImplementedError,
)


def find_fault(path: Path, index: int) -> str | None:
    """The first thing wrong with what page ``index`` (from 0) draws, a key of ``REASONS``; None where all is well."""
    with pikepdf.open(path) as pdf:
        page = pdf.pages[index]
        resources = page.obj.get("/Resources")
        drawable = resources.get("/XObject") if isinstance(resources, pikepdf.Dictionary) else None
        for name in _drawn(page):
            found = drawable.get(name) if isinstance(drawable, pikepdf.Dictionary) else None
            if not isinstance(found, pikepdf.Stream):
                return "image_missing"
            if found.get("/Subtype") == Name.Image and not _decodes(found):
                return "image_undecodable"
    return None


def _drawn(page: pikepdf.Page) -> Iterator[str]:
    """The names of what the page's content draws."""
    for instruction in pikepdf.parse_content_stream(page, "Do"):
        if instruction.operands:
            yield str(instruction.operands[0])


def _decodes(image: pikepdf.Stream) -> bool:
    """Whether all of an image can be decoded, as far as that can be known."""
    with _complaints() as complaints:
        try:
            pikepdf.PdfImage(image).as_pil_image().load()
        except _CANNOT_TELL:
            return True
        except Exception:  # every codec has its own
            return False
        return not complaints()


@contextmanager
def _complaints() -> Iterator[Callable[[], bool]]:
    """Whether anything was written to stderr: libtiff, which decodes fax images, tells of broken lines only there."""
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            yield lambda: os.fstat(file.fileno()).st_size > 0
    finally:
        os.dup2(kept, 2)
        os.close(kept)
