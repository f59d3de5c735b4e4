"""The outputs of a job: a searchable PDF, text, and JSON, with what is missing named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pikepdf
import pypdfium2
import pytest
from pikepdf import Array, Dictionary, Name

from tasks.engines import Word
from tasks.merge import MergeFailed, merge
from tasks.page_results import PageResult, PageStatus
from tasks.pdf.geometry import Geometry

XHTML = "{http://www.w3.org/1999/xhtml}"
NewChildren = Callable[[], list[Any]]


def blank_pages(path: Path, count: int) -> Path:
    with pikepdf.new() as pdf:
        for _ in range(count):
            pdf.pages.append(pikepdf.Page(Dictionary(Type=Name.Page, MediaBox=Array([0, 0, 600, 800]))))
        pdf.save(path)
    return path


def recognised(page: int, *texts: str) -> PageResult:
    words = tuple(Word(text, 100 + 150 * n, 100, 200 + 150 * n, 130, 91.5, 0) for n, text in enumerate(texts))
    geometry = Geometry((0, 0, 600, 800), 0, 1200, 1600)
    return PageResult(page=page, status=PageStatus.READ, dpi=144, geometry=geometry, words=words)


def merged(folder: Path, results: list[PageResult], pages: int) -> tuple[str, dict[str, Any], Path]:
    original = blank_pages(folder / "in.pdf", pages)
    outputs = merge(original, folder, results, document_id="doc_1", pages=pages, timeout=60)
    return outputs["txt"].read_text(), json.loads(outputs["json"].read_text()), outputs["pdf"]


def test_each_page_is_in_each_output(tmp_path: Path) -> None:
    """The n-th part of the text, the n-th entry of the JSON, the layer on page n."""
    text, record, pdf = merged(tmp_path, [recognised(1, "first", "page"), recognised(2, "second")], 2)
    assert text == "first page\fsecond\n"
    assert record["pages"][0] == {
        "page": 1,
        "status": "read",
        "reason": None,
        "message": None,
        "confidence": 91.5,
        "doubtful": False,
        "dpi": 144,
        "width": 1200,
        "height": 1600,
        "orientation": 0,
        "skew": 0,
        "text": "first page",
        "words": [["first", 100, 100, 200, 130, 91.5, 0], ["page", 250, 100, 350, 130, 91.5, 0]],
    }
    assert record["word_fields"] == ["text", "x0", "y0", "x1", "y1", "confidence", "line"]
    with pypdfium2.PdfDocument(pdf) as opened:
        assert [page.get_textpage().get_text_range() for page in opened] == ["first page", "second"]


def test_hocr_has_a_page_for_each_and_a_box_for_each_word(tmp_path: Path) -> None:
    """Well-formed, whatever was read; a page that is missing keeps its place, and text of the file has no box."""
    read = recognised(2, "a<b", "&", "\x01c")
    kept = PageResult(page=3, status=PageStatus.KEPT, own_text='its "own"')
    original = blank_pages(tmp_path / "in.pdf", 4)
    outputs = merge(original, tmp_path, [read, kept], document_id="doc_1", pages=4, timeout=60)
    body = ElementTree.parse(outputs["hocr"]).getroot().find(f"{XHTML}body")
    assert body is not None
    assert [(page.get("class"), page.get("title")) for page in body] == [
        ("ocr_page", "bbox 0 0 0 0; ppageno 0"),
        ("ocr_page", "bbox 0 0 1200 1600; ppageno 1; scan_res 144 144"),
        ("ocr_page", "bbox 0 0 0 0; ppageno 2"),
        ("ocr_page", "bbox 0 0 0 0; ppageno 3"),
    ]
    [line] = body[1]
    assert (line.get("class"), line.get("title")) == ("ocr_line", "bbox 100 100 500 130")
    assert [(word.get("title"), word.text) for word in line] == [
        ("bbox 100 100 200 130; x_wconf 92", "a<b"),
        ("bbox 250 100 350 130; x_wconf 92", "&"),
        ("bbox 400 100 500 130; x_wconf 92", "\ufffdc"),
    ]
    assert {word.get("class") for word in line} == {"ocrx_word"}
    assert [own.text for own in body[2]] == ['its "own"']
    ids = [element.get("id") for element in body.iter() if element.get("id")]
    assert len(ids) == len(set(ids)) == 8


@pytest.mark.parametrize(
    ("there", "missing", "text"),
    [
        ([], [[1, 6]], "\f\f\f\f\f\n"),
        ([3, 4], [[1, 2], [5, 6]], "\f\fp3\fp4\f\f\n"),
        ([1, 2, 5, 6], [[3, 4]], "p1\fp2\f\f\fp5\fp6\n"),
        ([1, 2, 3, 4, 5, 6], [], "p1\fp2\fp3\fp4\fp5\fp6\n"),
    ],
)
def test_pages_of_failed_chunks_are_named(
    there: list[int], missing: list[list[int]], text: str, tmp_path: Path
) -> None:
    """They have no text layer; the text keeps their place."""
    found, record, pdf = merged(tmp_path, [recognised(page, f"p{page}") for page in there], 6)
    assert (record["missing"], found) == (missing, text)
    with pypdfium2.PdfDocument(pdf) as opened:
        assert len(opened) == 6


def test_unreadable_pages_are_named_and_kept_pages_bring_their_text(tmp_path: Path) -> None:
    """The text output is that of the whole document, not only of what was recognised."""
    results = [
        PageResult(page=1, status=PageStatus.KEPT, own_text="its own"),
        PageResult(page=2, status=PageStatus.UNREADABLE, message="Page 2 has an image that is missing."),
    ]
    text, record, _ = merged(tmp_path, results, 2)
    assert text == "its own\f\n"
    assert record["unreadable"] == [{"page": 2, "message": "Page 2 has an image that is missing."}]


def test_a_file_that_cannot_be_merged_fails_with_a_sentence(tmp_path: Path, new_children: NewChildren) -> None:
    """And the child that tried is gone."""
    (tmp_path / "in.pdf").write_bytes(b"%PDF-1.7\n")
    with pytest.raises(MergeFailed, match="could not be added"):
        merge(tmp_path / "in.pdf", tmp_path, [recognised(1, "x")], document_id="doc_1", pages=1, timeout=60)
    assert new_children() == []


def test_a_merge_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """The child is killed, whatever it does."""
    original = blank_pages(tmp_path / "in.pdf", 1)
    with pytest.raises(MergeFailed, match="too much memory or time"):
        merge(original, tmp_path, [recognised(1, "x")], document_id="doc_1", pages=1, timeout=0.01)


def test_a_cancelled_merge_leaves_no_child(tmp_path: Path, new_children: NewChildren) -> None:
    """What interrupts the reading of the results interrupts the whole."""

    def results() -> Iterator[PageResult]:
        yield recognised(1, "x")
        raise KeyboardInterrupt

    original = blank_pages(tmp_path / "in.pdf", 2)
    with pytest.raises(KeyboardInterrupt):
        merge(original, tmp_path, results(), document_id="doc_1", pages=2, timeout=60)
    assert new_children() == []
