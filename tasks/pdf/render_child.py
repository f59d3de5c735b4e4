"""The child of ``tasks.pdf.render``: a request per line on stdin; an answer per line on stdout, pixels after it.

``python -m tasks.pdf.render_child PATH DPI MODE MEMORY``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium_c
from PIL import Image

from tasks.pdf.geometry import fitting_dpi
from tasks.pdf.image_faults import find_fault
from tasks.pdf.sandbox import allow_cpu, confine

#: A page is looked at for ink at about this resolution: a full stop is still a pixel, dust is not.
_INK_DPI = 50
#: How much a pixel differs from the paper to be ink, of 255.
_INK_CONTRAST = 24

#: pdfium marks a hyphen at a line's end with one of these.
_HYPHENS = str.maketrans({"\ufffe": "-", "\x02": "-", "\r": None})


class _Trouble(Exception):
    """Carries the reason to the parent; this process lives on."""

    def __init__(self, reason: str, **details: Any) -> None:
        super().__init__(reason)
        self.reply = {"error": reason, "details": details}


def has_ink(image: Image.Image, dpi: float) -> bool:
    """Whether anything but paper is to be seen. Paper is the page's median gray, so white on black counts too."""
    histogram = image.reduce(max(1, round(dpi / _INK_DPI))).histogram()
    seen, paper = 0, 0
    while (seen := seen + histogram[paper]) * 2 < sum(histogram):
        paper += 1
    return any(histogram[: max(0, paper - _INK_CONTRAST)]) or any(histogram[paper + _INK_CONTRAST + 1 :])


def text_of(page: pypdfium2.PdfPage) -> str:
    """The text that a page carries, visible or not."""
    return str(page.get_textpage().get_text_range()).translate(_HYPHENS)


def kinds_of_text(page: pypdfium2.PdfPage) -> tuple[bool, bool]:
    """Whether the page has visible text, and whether it has invisible text."""
    invisible = [
        pdfium_c.FPDFTextObj_GetTextRenderMode(text) == pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE
        for text in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_TEXT])
    ]
    return not all(invisible), any(invisible)


def keeps_text(page: pypdfium2.PdfPage, mode: str) -> tuple[str | None, bool]:
    """What the mode says about a page: the text to keep, and whether an invisible layer is to be replaced."""
    text = text_of(page)
    if not text.strip():
        return None, False
    if mode == "skip":
        return text, False
    visible, invisible = kinds_of_text(page)
    return (text, False) if mode == "redo" and visible else (None, invisible)


def render(pdf: pypdfium2.PdfDocument, index: int, dpi: float, mode: str) -> tuple[dict[str, Any], Any]:
    """The answer about one page, and its pixels where they are to be recognised."""
    page = pdf[index]
    width, height = page.get_size()
    if width <= 0 or height <= 0:
        raise _Trouble("no_area")
    fitting = fitting_dpi(width, height, dpi)
    if fitting is None:
        raise _Trouble("too_large")
    own_text, replaces_layer = keeps_text(page, mode)
    bitmap = None if own_text is not None else page.render(scale=fitting / 72, grayscale=True)
    wanted = bitmap is not None and has_ink(bitmap.to_pil(), fitting)
    return {
        "box": page.get_bbox(),
        "rotation": page.get_rotation(),
        "dpi": fitting,
        "own_text": own_text,
        "replaces_layer": replaces_layer,
        "width": bitmap.width if bitmap else 0,
        "height": bitmap.height if bitmap else 0,
        "stride": bitmap.stride if bitmap else 0,
        "bytes": bitmap.stride * bitmap.height if bitmap and wanted else 0,
    }, memoryview(bitmap.buffer).cast("B") if bitmap and wanted else b""


def answer(path: Path, pdf: pypdfium2.PdfDocument, request: dict[str, Any], dpi: float, mode: str) -> None:
    """Do what one line asks."""
    reply: dict[str, Any]
    pixels: Any = b""
    try:
        if request["do"] == "inspect":
            reply = {"fault": find_fault(path, request["page"] - 1)}
        else:
            reply, pixels = render(pdf, request["page"] - 1, dpi, mode)
    except _Trouble as trouble:
        reply = trouble.reply
    except (pypdfium2.PdfiumError, ValueError) as error:
        reply = _Trouble("render_failed", detail=str(error).rstrip(".")).reply
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
    sys.stdout.buffer.write(pixels)
    sys.stdout.buffer.flush()


def main(path: str, dpi: str, mode: str, memory: str) -> None:
    """Answer until the parent closes the pipe."""
    confine(memory_bytes=int(memory))
    allow_cpu(60)
    pdf = pypdfium2.PdfDocument(path)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        allow_cpu(request["seconds"])
        answer(Path(path), pdf, request, float(dpi), mode)


if __name__ == "__main__":
    main(*sys.argv[1:])
