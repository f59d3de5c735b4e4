"""The child of ``tasks.pdf.render``: a request per line on stdin; an answer per line on stdout, pixels after it.

``python -m tasks.pdf.render_child PATH DPI MODE MEMORY``
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pikepdf
import pypdfium2

from tasks.pdf.geometry import Geometry, fitting_dpi
from tasks.pdf.image_faults import find_fault, opened
from tasks.pdf.ink import has_ink, ink_mask, look
from tasks.pdf.page_text import examine_text
from tasks.pdf.sandbox import allow_cpu, confine
from tasks.pdf.upright import make_upright


class _Trouble(Exception):
    """Carries the reason to the parent; this process lives on."""

    def __init__(self, reason: str, **details: Any) -> None:
        super().__init__(reason)
        self.reply = {"error": reason, "details": details}


def page_unit(path: Path, index: int) -> float:
    """How many points a unit of the page's user space is: pdfium leaves UserUnit out of account."""
    try:
        unit = float(opened(path).pages[index].obj.get("/UserUnit", 1))
    except (pikepdf.PdfError, ValueError, TypeError, IndexError, OSError):
        return 1.0
    return unit if unit > 0 else 1.0


def render(path: Path, pdf: pypdfium2.PdfDocument, index: int, dpi: float, mode: str) -> tuple[dict[str, Any], bytes]:
    """The answer about one page, and its upright pixels where they are to be recognised."""
    page = pdf[index]
    unit = page_unit(path, index)
    width, height = page.get_size()
    if width <= 0 or height <= 0:
        raise _Trouble("no_area")
    fitting = fitting_dpi(width * unit, height * unit, dpi)
    if fitting is None:
        raise _Trouble("too_large")
    scale = fitting / 72 * unit
    geometry = Geometry(page.get_bbox(), page.get_rotation(), math.ceil(width * scale), math.ceil(height * scale))
    text = examine_text(page, mode, geometry, scale, fitting)
    sure, image = True, None
    if text.more_to_read:
        seen = page.render(scale=scale, grayscale=True).to_pil()
        geometry = replace(geometry, width=seen.width, height=seen.height)
        ink = ink_mask(look(seen, fitting))
        if has_ink(ink):
            image, geometry, sure = make_upright(seen, ink, geometry, fitting)
    pixels = b"" if image is None else image.tobytes()
    return {
        "geometry": astuple(geometry),
        "dpi": fitting,
        "own_text": text.own_text,
        "own_words": [astuple(word) for word in text.own_words] if pixels else [],
        "replaces_layer": text.replaces_layer,
        "axis_sure": sure,
        "bytes": len(pixels),
    }, pixels


def _fault(path: Path, index: int, *, thorough: bool) -> str | None:
    try:
        return find_fault(path, index, thorough=thorough)
    except pikepdf.PdfError:
        # pikepdf cannot read what pdfium drew: where that showed nothing, something is broken.
        return "image_undecodable" if thorough else None


def answer(path: Path, pdf: pypdfium2.PdfDocument, request: dict[str, Any], dpi: float, mode: str) -> None:
    """Do what one line asks."""
    reply: dict[str, Any]
    pixels = b""
    try:
        if request["do"] == "inspect":
            reply = {"fault": _fault(path, request["page"] - 1, thorough=request["thorough"])}
        else:
            reply, pixels = render(path, pdf, request["page"] - 1, dpi, mode)
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
        allow_cpu(request["cpu_seconds"])
        answer(Path(path), pdf, request, float(dpi), mode)


if __name__ == "__main__":
    main(*sys.argv[1:])
