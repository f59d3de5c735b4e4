"""The child of ``tasks.pdf.render``: a request per line on stdin; an answer per line on stdout, pixels after it.

``python -m tasks.pdf.render_child PATH DPI MODE MEMORY``
"""

from __future__ import annotations

import json
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium_c

from tasks.pdf.geometry import Geometry, fitting_dpi
from tasks.pdf.image_faults import find_fault
from tasks.pdf.ink import has_ink, ink_mask, look
from tasks.pdf.sandbox import allow_cpu, confine
from tasks.pdf.upright import make_upright

#: pdfium marks a hyphen at a line's end with one of these.
_HYPHENS = str.maketrans({"\ufffe": "-", "\x02": "-", "\r": None})


class _Trouble(Exception):
    """Carries the reason to the parent; this process lives on."""

    def __init__(self, reason: str, **details: Any) -> None:
        super().__init__(reason)
        self.reply = {"error": reason, "details": details}


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


def render(pdf: pypdfium2.PdfDocument, index: int, dpi: float, mode: str) -> tuple[dict[str, Any], bytes]:
    """The answer about one page, and its upright pixels where they are to be recognised."""
    page = pdf[index]
    width, height = page.get_size()
    if width <= 0 or height <= 0:
        raise _Trouble("no_area")
    fitting = fitting_dpi(width, height, dpi)
    if fitting is None:
        raise _Trouble("too_large")
    own_text, replaces_layer = keeps_text(page, mode)
    geometry = Geometry(page.get_bbox(), page.get_rotation(), 0, 0)
    sure, image = True, None
    if own_text is None:
        bitmap = page.render(scale=fitting / 72, grayscale=True)
        geometry = replace(geometry, width=bitmap.width, height=bitmap.height)
        ink = ink_mask(look(seen := bitmap.to_pil(), fitting))
        if has_ink(ink):
            image, geometry, sure = make_upright(seen, ink, geometry, fitting)
    pixels = b"" if image is None else image.tobytes()
    return {
        "geometry": astuple(geometry),
        "dpi": fitting,
        "own_text": own_text,
        "replaces_layer": replaces_layer,
        "axis_sure": sure,
        "bytes": len(pixels),
    }, pixels


def answer(path: Path, pdf: pypdfium2.PdfDocument, request: dict[str, Any], dpi: float, mode: str) -> None:
    """Do what one line asks."""
    reply: dict[str, Any]
    pixels = b""
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
