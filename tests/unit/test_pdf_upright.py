"""Pages that lie on their side, on their head or askew: they are read as upright ones, and the words lie on the ink."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pikepdf
import pypdfium2
import pytest
from PIL import Image, ImageDraw

from tasks.engines import Bitmap, OcrEngine, Word
from tasks.page_results import PageResult, PageStatus
from tasks.pdf.geometry import Geometry
from tasks.pdf.graft import graft
from tasks.pdf.ink import has_ink, ink_mask
from tasks.pdf.print_direction import find_direction
from tasks.pdf.render import PageRenderer
from tasks.pdf.upside_down import upside_down
from tasks.recognition import recognise_pages
from tasks.sample import sample_page

pytestmark = pytest.mark.usefixtures("no_cpu_limit")

DPI = 150


def scan(path: Path, image: Image.Image) -> Path:
    """A page that is all image."""
    image.save(path, "PDF", resolution=DPI)
    return path


def print_(turned: float) -> tuple[Image.Image, str]:
    """A third of a sample page, turned clockwise, and what it says."""
    image, lines = sample_page(1, dpi=DPI)
    image = image.crop((0, 0, image.width, image.height // 3))
    said = " ".join(lines[: round((image.height / DPI - 1.2) / 0.24) - 1])
    return image.rotate(-turned, expand=True, fillcolor=255, resample=Image.Resampling.BICUBIC), said


def counts(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def read(path: Path, engine: OcrEngine) -> PageResult:
    with PageRenderer(path, dpi=DPI, mode="skip", timeout=60) as pages:
        (result,) = recognise_pages([1], pages, engine, page_timeout=60)
    return result


@pytest.mark.parametrize("turned", [0, 90, 180, 270, 7, -7, 95, 172, 265])
def test_a_turned_page_is_read_and_its_words_lie_on_the_ink(turned: int, tmp_path: Path, tesseract: OcrEngine) -> None:
    """Ink that no word lies on, and words that lie on no ink, are few; read back from the merged file as well."""
    image, said = print_(turned)
    path = scan(tmp_path / "in.pdf", image)
    result = read(path, tesseract)
    missed = counts(said) - counts(result.text)
    assert missed.total() <= 0.02 * counts(said).total()
    assert result.geometry is not None
    assert result.geometry.orientation == round(turned / 90) * 90 % 360
    ink, covered = np.asarray(image) < 128, Image.new("1", image.size)
    for word in result.words_on_bitmap():
        ImageDraw.Draw(covered).rectangle((word.x0, word.y0, word.x1, word.y1), fill=1)
    assert np.count_nonzero(ink & np.asarray(covered)) > 0.97 * np.count_nonzero(ink)
    graft(path, tmp_path / "out.pdf", [result])
    with pypdfium2.PdfDocument(tmp_path / "out.pdf") as pdf:
        text = pdf[0].get_textpage()
        assert counts(text.get_text_range()) == counts(result.text)
        first = text.search("sample").get_next()
        assert first is not None
        boxes = [text.get_charbox(first[0] + n) for n in range(first[1])]
    height = image.height * 72 / DPI
    (word,) = [word for word in result.words_on_bitmap() if word.text == "sample"][:1]
    middle = [(min(box[n] for box in boxes) + max(box[n + 2] for box in boxes)) / 2 for n in (0, 1)]
    assert middle[0] == pytest.approx((word.x0 + word.x1) / 2 * 72 / DPI, abs=2)
    assert middle[1] == pytest.approx(height - (word.y0 + word.y1) / 2 * 72 / DPI, abs=2)


def test_the_page_itself_is_not_turned(tmp_path: Path, tesseract: OcrEngine) -> None:
    """It looks to the last pixel as before."""
    path = scan(tmp_path / "in.pdf", print_(90)[0])
    graft(path, tmp_path / "out.pdf", [read(path, tesseract)])
    with pypdfium2.PdfDocument(path) as before, pypdfium2.PdfDocument(tmp_path / "out.pdf") as after:
        assert bytes(before[0].render().buffer) == bytes(after[0].render().buffer)


@pytest.mark.parametrize("orientation", [0, 90, 180, 270])
@pytest.mark.parametrize("skew", [0.0, 5.0, -12.5])
def test_the_upright_page_holds_all_of_the_page(orientation: int, skew: float) -> None:
    """Its size fits, and its corners come back to the same points."""
    geometry = Geometry((0, 0, 600, 800), 0, 1200, 1600, orientation, skew)
    width, height = geometry.upright_size
    a, b, c, d, _, _ = geometry.upright_to_bitmap
    assert a * d - b * c == pytest.approx(1)
    assert geometry.box_on_bitmap(0, 0, width, height) == (0, 0, 1200, 1600)


class UpsideDownReader:
    """Believes in what it reads only when the page's mark is at the upper left."""

    def recognise(self, bitmap: Bitmap, *, timeout_s: float) -> list[Word]:
        """One word, at confidence 90 or 20."""
        image = Image.frombuffer("L", (bitmap.width, bitmap.height), bitmap.pixels, "raw", "L", bitmap.stride, 1)
        upright = image.crop((0, 0, image.width // 2, image.height // 2)).getextrema()[0] < 128
        return [Word("word", 1, 1, 9, 9, 90 if upright else 20, 0)]

    def close(self) -> None:
        """Nothing to free."""


def test_a_page_without_lines_is_turned_until_its_words_can_be_believed(tmp_path: Path) -> None:
    """Two specks have no direction; what is read decides."""
    image = Image.new("L", (600, 800), 255)
    ImageDraw.Draw(image).rectangle((500, 700, 512, 712), fill=0)
    result = read(scan(tmp_path / "in.pdf", image), UpsideDownReader())
    assert result.geometry is not None
    assert (result.geometry.orientation, result.doubtful) == (180, False)


def test_a_page_that_cannot_be_believed_either_way_is_doubtful(tmp_path: Path) -> None:
    """The words are kept, with a mark."""
    image = Image.new("L", (600, 800), 255)
    ImageDraw.Draw(image).rectangle((295, 395, 305, 405), fill=0)

    class Noise(UpsideDownReader):
        def recognise(self, bitmap: Bitmap, *, timeout_s: float) -> list[Word]:
            return [Word("~", 1, 1, 9, 9, 20, 0)]

    result = read(scan(tmp_path / "in.pdf", image), Noise())
    assert (result.status, result.doubtful, result.text) == (PageStatus.READ, True, "~")


@pytest.mark.parametrize(("ink", "paper"), [(230, 255), (188, 210), (0, 255), (255, 0), (240, 255)])
def test_faint_print_is_ink(ink: int, paper: int) -> None:
    """Measured against the page's own paper."""
    image = Image.new("L", (620, 877), paper)
    ImageDraw.Draw(image).text((100, 400), "faint", ink, font_size=12)
    assert has_ink(ink_mask(np.asarray(image)))


@pytest.mark.parametrize("paper", [0, 128, 210, 255])
def test_bare_paper_has_no_ink(paper: int) -> None:
    """Whatever its gray, also with the shadow of a book's spine on it."""
    shadow = np.clip(np.linspace(paper - 90, paper, 620), 0, 255).astype(np.uint8)
    assert not has_ink(ink_mask(np.full((877, 620), paper, np.uint8)))
    assert not has_ink(ink_mask(np.tile(shadow, (877, 1)))) or paper == 0


def test_grain_is_no_ink() -> None:
    """A scanner's noise stays below what counts as ink, however strong it is."""
    for deviation in (1, 4, 12):
        grain = np.random.default_rng(1).normal(200, deviation, (877, 620))
        assert ink_mask(np.clip(grain, 0, 255).astype(np.uint8)).mean() < 1e-4


def test_a_page_without_lines_has_no_direction() -> None:
    """It counts as upright."""
    direction = find_direction(np.zeros((877, 620), bool))
    assert (direction.sideways, direction.skew, direction.sure) == (False, 0, False)
    assert not upside_down(Image.new("L", (620, 877), 255), np.zeros((877, 620), bool))


def test_pages_with_a_rotate_entry_are_read_as_displayed(tmp_path: Path, tesseract: OcrEngine) -> None:
    """What the file turns and what the scanner turned add up."""
    image, said = print_(90)
    path = scan(tmp_path / "in.pdf", image)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        pdf.pages[0].Rotate = 180
        pdf.save()
    result = read(path, tesseract)
    assert result.geometry is not None
    assert (result.geometry.rotation, result.geometry.orientation) == (180, 270)
    assert (counts(said) - counts(result.text)).total() <= 0.02 * counts(said).total()


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_a_page_is_turned_for_good_when_asked_for(turned: int, tmp_path: Path, tesseract: OcrEngine) -> None:
    """It is displayed upright then, and reading it again finds nothing to turn."""
    image, said = print_(turned)
    path = scan(tmp_path / "in.pdf", image)
    with PageRenderer(path, dpi=DPI, mode="skip", timeout=60) as pages:
        (result,) = recognise_pages([1], pages, tesseract, page_timeout=60, rotate_pages=True)
    graft(path, tmp_path / "out.pdf", [result])
    with PageRenderer(tmp_path / "out.pdf", dpi=DPI, mode="force", timeout=60) as pages:
        assert pages.render(1).geometry.orientation == 0
    with pypdfium2.PdfDocument(tmp_path / "out.pdf") as pdf:
        assert (counts(said) - counts(pdf[0].get_textpage().get_text_range())).total() <= 2


def test_pages_that_are_not_asked_for_are_kept(tmp_path: Path, tesseract: OcrEngine) -> None:
    """They are not even rendered."""
    path = scan(tmp_path / "in.pdf", Image.new("L", (100, 100), 255))
    with PageRenderer(path, dpi=DPI, mode="skip", timeout=60) as pages:
        results = list(recognise_pages([1, 2], pages, tesseract, page_timeout=60, asks_for=lambda page: page == 1))
    assert [(result.status, result.reason) for result in results] == [
        (PageStatus.BLANK, None),
        (PageStatus.KEPT, "not_asked_for"),
    ]
