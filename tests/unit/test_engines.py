"""The contract that every OCR engine keeps, and how well Tesseract reads."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pikepdf
import pypdfium2
import pytest
from pikepdf import Array, Dictionary, Name

from tasks.engines import ENGINES, Bitmap, EngineUnavailable, OcrEngine, RecognitionTimeout, make_engine
from tasks.pdf.render import PageRenderer
from tasks.recognition import recognise_pages
from tasks.sample import sample_page

CORPUS = Path(os.environ.get("CORPUS_DIR", Path(__file__).parents[2].parent / "shared" / "corpus"))


@pytest.fixture(scope="module", params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Iterator[OcrEngine]:
    """Each engine of the table."""
    made = make_engine(request.param, "eng")
    yield made
    made.close()


@pytest.fixture(scope="module")
def scan() -> Bitmap:
    """A quarter of a sample page, with rows longer than the page is wide."""
    image, _ = sample_page(1, dpi=150)
    image = image.crop((0, 0, image.width, image.height // 4))
    padded = image.crop((0, 0, image.width + 13, image.height))
    return Bitmap(image.width, image.height, padded.width, padded.tobytes(), 150)


def blank(width: int, height: int) -> Bitmap:
    return Bitmap(width, height, width, b"\xff" * (width * height), 300)


def test_words_are_in_reading_order_within_the_bitmap(engine: OcrEngine, scan: Bitmap) -> None:
    """Boxes, confidences, lines and texts are what the contract says."""
    words = engine.recognise(scan, timeout_s=60)
    assert [word.line for word in words] == sorted(word.line for word in words)
    for word in words:
        assert word.text
        assert not re.search(r"\s", word.text)
        assert 0 <= word.x0 < word.x1 <= scan.width
        assert 0 <= word.y0 < word.y1 <= scan.height
        assert 0 <= word.confidence <= 100


def test_a_page_is_read_the_same_whatever_came_before(engine: OcrEngine, scan: Bitmap) -> None:
    """A chunk that runs again gives the same words."""
    first = engine.recognise(scan, timeout_s=60)
    engine.recognise(blank(300, 200), timeout_s=60)
    assert engine.recognise(scan, timeout_s=60) == first


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (400, 300)])
def test_an_empty_page_has_no_words(engine: OcrEngine, size: tuple[int, int]) -> None:
    """However small or odd it is."""
    assert engine.recognise(blank(*size), timeout_s=60) == []


def test_close_can_be_called_twice() -> None:
    """Closing is what a finally block does."""
    for name in ENGINES:
        made = make_engine(name, "eng")
        made.close()
        made.close()


def test_tesseract_gives_up_in_time(scan: Bitmap) -> None:
    """A partial result, which looks as good as a whole one, is never returned."""
    engine = make_engine("tesseract", "eng")
    with pytest.raises(RecognitionTimeout, match="within"):
        engine.recognise(scan, timeout_s=0.001)
    assert engine.recognise(scan, timeout_s=60)
    engine.close()


@pytest.mark.parametrize(("name", "language"), [("crystal-ball", "eng"), ("tesseract", "xx_none")])
def test_what_is_not_there_is_said(name: str, language: str) -> None:
    """An unknown engine, and an unknown language of a known one."""
    with pytest.raises(EngineUnavailable, match=r"OCR_ENGINE|no language of Tesseract"):
        make_engine(name, language)


def test_another_language_is_read_in_its_own_letters(tmp_path: Path) -> None:
    """With its data installed, alone or beside English."""
    said = "Für die Größe der Straße müssen wir überall schöne Möbel zählen"
    with pikepdf.new() as pdf:
        font = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica, Encoding=Name.WinAnsiEncoding)
        page = Dictionary(
            Type=Name.Page,
            MediaBox=Array([0, 0, 400, 60]),
            Contents=pdf.make_stream(b"BT /F 12 Tf 10 25 Td (" + said.encode("cp1252") + b") Tj ET"),
            Resources=Dictionary(Font=Dictionary(F=font)),
        )
        pdf.pages.append(pikepdf.Page(page))
        pdf.save(tmp_path / "in.pdf")
    with pypdfium2.PdfDocument(tmp_path / "in.pdf") as written:
        image = written[0].render(scale=300 / 72, grayscale=True).to_pil()
    for language in ("deu", "eng+deu"):
        engine = make_engine("tesseract", language)
        bitmap = Bitmap(image.width, image.height, image.width, image.tobytes(), 300)
        assert " ".join(word.text for word in engine.recognise(bitmap, timeout_s=60)) == said
        engine.close()


def word_counts(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no corpus; set CORPUS_DIR")
def test_tesseract_finds_97_of_100_words_of_old_books() -> None:
    """Word recall against a human transcript, over all words of the pages: a guard, single pages may do worse."""
    pages = range(9, 426, 68)  # evenly through the book, so that nobody picked the pages
    truth = [json.loads(line)["text"] for line in (CORPUS / "big" / "scan425.gt.jsonl").read_text().splitlines()]
    engine = make_engine("tesseract", "eng")
    with PageRenderer(CORPUS / "big" / "scan425.pdf", dpi=300, mode="skip", timeout=60) as renderer:
        results = list(recognise_pages(pages, renderer, engine, page_timeout=60))
    engine.close()
    wanted = [word_counts(truth[page - 1]) for page in pages]
    found = [word_counts(result.text) for result in results]
    hits = sum((w & f).total() for w, f in zip(wanted, found, strict=True))
    assert hits / sum(w.total() for w in wanted) >= 0.97
