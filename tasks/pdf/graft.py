"""Text layers into a PDF, in place: nothing is split, joined or drawn again, so all the document has stays.

``python -m tasks.pdf.graft ORIGINAL OUT MEMORY`` reads page results from stdin, a line of JSON each, and prints one
line: the pages that took no layer. ``tasks.merge`` starts it: the file is as untrusted as on the first day.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pikepdf
import pypdfium2
from pikepdf import Array, Dictionary, Name

from tasks.page_results import PageResult
from tasks.pdf.geometry import Geometry, Matrix, compose
from tasks.pdf.glyphless import add_font
from tasks.pdf.sandbox import allow_cpu, confine
from tasks.pdf.text_layer import text_operators

#: CPU seconds for one page, and for saving the file.
_PAGE_SECONDS = 30
_SAVE_SECONDS = 600

#: Operators that show text, and what else they do (ISO 32000-1, 9.4.3): the replacement keeps that.
_SHOWING: dict[str, tuple[str, ...]] = {"Tj": (), "TJ": (), "'": ("T*",), '"': ("T*",)}
_INVISIBLE = 3

_Y_UPWARDS: Matrix = (1, 0, 0, -1, 0, 0)


class GraftFailed(Exception):
    """The searchable PDF could not be made from this document."""


def graft(original: Path, out: Path, pages: Iterable[PageResult]) -> list[int]:
    """Write ``original`` with one invisible text layer per recognised page to ``out``.

    ``pages`` is read once, one at a time. The answer names the pages (from 1) that took no layer because their own
    objects are broken; they are in ``out`` as they were.

    :raises GraftFailed: when the file cannot be read or written.
    """
    try:
        with pikepdf.open(original) as pdf:
            font = add_font(pdf)
            refused = [result.page for result in pages if not _add_layer(pdf, result, font)]
            count = len(pdf.pages)
            allow_cpu(_SAVE_SECONDS)
            pikepdf.settings.set_flate_compression_level(9)
            # The same file from the same results, whichever attempt made it; an encrypted one is random by design.
            pdf.save(out, encryption=pdf.is_encrypted, deterministic_id=not pdf.is_encrypted)
    except (pikepdf.PdfError, OSError) as error:
        raise GraftFailed(f"The text could not be added to the PDF: {error}") from error
    _verify(out, count)
    return refused


def _verify(out: Path, count: int) -> None:
    """The file that was written opens in another library, with as many pages."""
    try:
        with pypdfium2.PdfDocument(out) as written:
            found = len(written)
    except pypdfium2.PdfiumError as error:
        raise GraftFailed(f"The merged PDF cannot be opened: {error}") from error
    if found != count:
        raise GraftFailed(f"The merged PDF has {found} pages, the original {count}.")


def _add_layer(pdf: pikepdf.Pdf, result: PageResult, font: pikepdf.Object) -> bool:
    """Put a page's layer under what it shows; False where the page's objects do not allow it."""
    if result.geometry is None or not result.changes_page:
        return True
    allow_cpu(_PAGE_SECONDS)
    try:
        page = pdf.pages[result.page - 1]
        if result.replaces_layer:
            _remove_invisible_text(pdf, page)
        if result.words_to_add:
            layer = _layer(pdf, result, result.geometry, font)
            name = page.add_resource(layer, Name.XObject, name=_free_name(page, result.page))
            page.contents_add(b"q " + bytes(name) + b" Do Q", prepend=True)
        if result.turns_page:
            page.rotate(result.turns_page, relative=True)
    except (pikepdf.PdfError, ValueError, TypeError, KeyError, AttributeError):
        return False  # what pikepdf raises for objects of a wrong kind
    return True


def _free_name(page: pikepdf.Page, number: int) -> Name:
    """A name for the layer, the same each time the same file is merged; resources may be shared by pages."""
    taken = page.obj.get("/Resources", Dictionary()).get("/XObject", Dictionary())
    name = f"/OCR-{number}"
    while name in taken:
        name += "x"
    return Name(name)


def _layer(pdf: pikepdf.Pdf, result: PageResult, geometry: Geometry, font: pikepdf.Object) -> pikepdf.Stream:
    width, height = geometry.upright_size
    layer = pdf.make_stream("\n".join(text_operators(result.words_to_add)).encode("ascii"))
    layer.Type, layer.Subtype = Name.XObject, Name.Form
    layer.BBox = Array([0, -height, width, 0])
    layer.Matrix = Array([round(number, 7) for number in compose(_Y_UPWARDS, geometry.upright_to_user_space)])
    layer.Resources = Dictionary(Font=Dictionary(F=font))
    return layer


def _remove_invisible_text(pdf: pikepdf.Pdf, page: pikepdf.Page) -> None:
    """Drop what an earlier OCR put there, from the page's content and from the forms it draws."""
    page.obj.Contents = pdf.make_stream(_without_invisible_text(page))
    for _, form in page.form_xobjects.items():
        form.write(_without_invisible_text(form))


def _without_invisible_text(content: pikepdf.Page | pikepdf.Object) -> bytes:
    """The content stream without the text that is shown in rendering mode 3. The mode is part of the graphics state."""
    kept: list[Any] = []
    mode, stack = 0, [0]
    for instruction in pikepdf.parse_content_stream(content):
        operator = str(instruction.operator)
        if operator == "q":
            stack.append(mode)
        elif operator == "Q":
            mode = stack.pop() if len(stack) > 1 else mode
        elif operator == "Tr" and instruction.operands:
            mode = int(instruction.operands[0])
        if operator in _SHOWING and mode == _INVISIBLE:
            kept += [pikepdf.ContentStreamInstruction([], pikepdf.Operator(name)) for name in _SHOWING[operator]]
        else:
            kept.append(instruction)
    return pikepdf.unparse_content_stream(kept)


def main(original: str, out: str, memory: str) -> None:
    """Graft what comes on stdin."""
    confine(memory_bytes=int(memory))
    allow_cpu(_PAGE_SECONDS)
    results = (PageResult.from_dict(json.loads(line)) for line in sys.stdin.buffer)
    try:
        print(json.dumps({"refused": graft(Path(original), Path(out), results)}), flush=True)
    except GraftFailed as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
