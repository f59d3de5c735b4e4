"""Rendering in a child: what modes do to pages with text, and that a bad page costs only itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name

from tasks.engines.null import NullEngine
from tasks.page_results import PageStatus, page_ranges
from tasks.pdf.render import PageRenderer, PageUnreadable
from tasks.recognition import recognise_pages

NewChildren = Callable[[], list[Any]]

VISIBLE = b"BT /F 40 Tf 72 600 Td (Seen) Tj ET "
HIDDEN = b"BT 3 Tr /F 40 Tf 72 400 Td (Layer) Tj ET "
INK = b"100 100 300 200 re f "
#: The layer lies on the ink, as that of an earlier OCR does.
LAYERED = b"72 400 100 30 re f " + HIDDEN
RECURSIVE = b"/R Do "


def document(path: Path, *contents: bytes, scan: bytes | None = None) -> Path:
    """A page per content; ``/F`` is a font, ``/R`` a form that draws itself twice, ``/Scan`` an image if given."""
    with pikepdf.new() as pdf:
        form = pdf.make_indirect(
            pdf.make_stream(b"/R Do /R Do", Type=Name.XObject, Subtype=Name.Form, BBox=Array([0, 0, 600, 800]))
        )
        form.Resources = Dictionary(XObject=Dictionary(R=form))
        drawable = Dictionary(R=form)
        if scan is not None:
            drawable.Scan = pdf.make_stream(
                scan,
                Type=Name.XObject,
                Subtype=Name.Image,
                Width=100,
                Height=100,
                ColorSpace=Name.DeviceGray,
                BitsPerComponent=8,
                Filter=Name.DCTDecode,
            )
        font = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica)
        for content in contents:
            page = Dictionary(
                Type=Name.Page,
                MediaBox=Array([0, 0, 600, 800]),
                Contents=pdf.make_stream(content),
                Resources=Dictionary(XObject=drawable, Font=Dictionary(F=font)),
            )
            pdf.pages.append(pikepdf.Page(page))
        pdf.save(path)
    return path


def renderer(path: Path, *, mode: str = "skip", timeout: float = 30) -> PageRenderer:
    return PageRenderer(path, dpi=72, mode=mode, timeout=timeout)


@pytest.mark.parametrize(
    ("mode", "content", "own_text", "replaces_layer", "more"),
    [
        ("skip", INK, "", False, True),
        ("skip", INK + VISIBLE, "Seen", False, False),
        ("skip", LAYERED, "Layer", False, False),
        ("redo", VISIBLE + LAYERED, "Seen", True, False),
        ("redo", LAYERED, "", True, True),
        ("force", INK + VISIBLE, "", False, True),
        ("force", VISIBLE + LAYERED, "", True, True),
    ],
)
def test_the_mode_decides_about_pages_with_text(
    mode: str, content: bytes, own_text: str, replaces_layer: bool, more: bool, tmp_path: Path
) -> None:
    """The table in ``PageRenderer``'s docstring."""
    with renderer(document(tmp_path / "in.pdf", content), mode=mode) as pages:
        seen = pages.render(1)
    assert (seen.own_text, seen.replaces_layer) == (own_text, replaces_layer)
    assert (seen.bitmap is not None) == more


@pytest.mark.parametrize("content", [b"", b"1 g 0 0 600 800 re f", b"0 g 0 0 600 800 re f"])
def test_a_page_without_ink_needs_no_engine(content: bytes, tmp_path: Path) -> None:
    """Nothing, white, or all black: there is nothing to read."""
    with renderer(document(tmp_path / "in.pdf", content)) as pages:
        (result,) = recognise_pages([1], pages, NullEngine(), page_timeout=30)
    assert (result.status, result.message) == (PageStatus.BLANK, None)


def test_a_single_letter_is_ink(tmp_path: Path) -> None:
    """The test for blank pages must not lose a page number."""
    content = b"q 1 0 0 1 300 40 cm 0 0 2 6 re f Q"
    with PageRenderer(document(tmp_path / "in.pdf", content), dpi=300, mode="skip", timeout=30) as pages:
        assert pages.render(1).bitmap is not None


def test_a_page_that_never_ends_costs_only_itself(tmp_path: Path) -> None:
    """pdfium draws a form that draws itself for ever; the pages around it are read."""
    path = document(tmp_path / "in.pdf", INK, RECURSIVE, INK)
    started = time.monotonic()
    with renderer(path, timeout=1) as pages:
        results = list(recognise_pages([1, 2, 3], pages, NullEngine(), page_timeout=1))
    assert [result.status for result in results] == [
        PageStatus.READ,
        PageStatus.UNREADABLE,
        PageStatus.READ,
    ]
    assert results[1].message == "Page 2 could not be rendered within 1 s."
    assert time.monotonic() - started < 10


def test_a_renderer_that_is_killed_is_replaced(tmp_path: Path, new_children: NewChildren) -> None:
    """By the kernel for its memory, say: that page is named, the next one is rendered."""
    with renderer(document(tmp_path / "in.pdf", INK, INK)) as pages:
        pages.render(1)
        (child,) = new_children()
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(PageUnreadable, match="render_"):
            pages.render(2)
        assert pages.render(2).bitmap is not None


def test_no_child_is_left(tmp_path: Path, new_children: NewChildren) -> None:
    """Whether its pages went well or not."""
    path = document(tmp_path / "in.pdf", INK, RECURSIVE)
    with renderer(path, timeout=1) as pages:
        list(recognise_pages([1, 2], pages, NullEngine(), page_timeout=1))
    assert new_children() == []


def test_a_page_that_is_not_there_is_named(tmp_path: Path) -> None:
    """An error of the library is a message, and the child lives on."""
    with renderer(document(tmp_path / "in.pdf", INK)) as pages:
        with pytest.raises(PageUnreadable, match="render_"):
            pages.render(7)
        assert pages.render(1).bitmap is not None


@pytest.mark.parametrize(
    ("scan", "message"),
    [
        (None, "Page 1 has an image that is missing."),
        (b"no JPEG at all", "Page 1 has an image that cannot be decoded."),
    ],
)
def test_a_page_whose_image_is_lost_is_not_called_blank(scan: bytes | None, message: str, tmp_path: Path) -> None:
    """pdfium renders it white and reports nothing; a person must be told."""
    path = document(tmp_path / "in.pdf", b"q 600 0 0 800 0 0 cm /Scan Do Q", scan=scan)
    with renderer(path) as pages:
        (result,) = recognise_pages([1], pages, NullEngine(), page_timeout=30)
    assert (result.status, result.message) == (PageStatus.UNREADABLE, message)


def test_a_page_with_no_visible_area_is_named(tmp_path: Path) -> None:
    """A crop box outside of the page leaves nothing to see."""
    path = document(tmp_path / "in.pdf", INK)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        pdf.pages[0].obj.CropBox = Array([700, 900, 800, 1000])
        pdf.save()
    with renderer(path) as pages, pytest.raises(PageUnreadable, match="no_area"):
        pages.render(1)


def test_page_numbers_become_ranges() -> None:
    """As people write them."""
    assert page_ranges([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]
    assert page_ranges([]) == []
