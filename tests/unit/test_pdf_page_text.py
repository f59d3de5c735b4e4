"""Pages that carry text and are a scan as well: what can be seen stays, the rest is read, each word is there once."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pikepdf
import pypdfium2
import pytest
from pikepdf import Array, Dictionary, Name
from PIL import Image

from tasks.engines import OcrEngine
from tasks.page_results import PageResult, PageStatus
from tasks.pdf.graft import graft
from tasks.pdf.render import PageRenderer
from tasks.recognition import recognise_pages
from tasks.sample import gray_jpeg, sample_page

pytestmark = pytest.mark.usefixtures("no_cpu_limit")

DPI = 150
WIDTH, HEIGHT = 595, 280
STAMP = b"BT /F 11 Tf 40 265 Td (Case 1:07-cv-00312 Document 1 Filed) Tj ET "
SCAN = b"q 595 0 0 280 0 0 cm /Scan Do Q "


@dataclass(frozen=True)
class Scan:
    """A third of a sample page: its image, and its lines from top to bottom."""

    image: Image.Image
    lines: tuple[str, ...]


@pytest.fixture(scope="module")
def scan() -> Scan:
    """The same for all tests."""
    image, lines = sample_page(1, dpi=DPI)
    return Scan(image.crop((0, 0, image.width, round(HEIGHT / 72 * DPI))), tuple(lines[:11]))


def page(path: Path, content: bytes, image: Image.Image, **entries: object) -> Path:
    """A page that may draw ``/Scan`` and set text in ``/F``."""
    with pikepdf.new() as pdf:
        scan = gray_jpeg(pdf, image)
        font = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica)
        made = Dictionary(
            Type=Name.Page,
            MediaBox=Array([0, 0, WIDTH, HEIGHT]),
            Contents=pdf.make_stream(content),
            Resources=Dictionary(XObject=Dictionary(Scan=scan), Font=Dictionary(F=font)),
        )
        for name, value in entries.items():
            made[f"/{name}"] = value
        pdf.pages.append(pikepdf.Page(made))
        pdf.save(path)
    return path


def read(path: Path, engine: OcrEngine, mode: str = "skip") -> PageResult:
    with PageRenderer(path, dpi=DPI, mode=mode, timeout=60) as pages:
        (result,) = recognise_pages([1], pages, engine, page_timeout=60)
    return result


def merged_text(path: Path, result: PageResult) -> str:
    out = path.with_name("out.pdf")
    graft(path, out, [result])
    with pypdfium2.PdfDocument(out) as pdf:
        return str(pdf[0].get_textpage().get_text_range())


def counts(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def missed(lines: tuple[str, ...], text: str) -> int:
    return (counts(" ".join(lines)) - counts(text)).total()


@pytest.mark.parametrize("mode", ["skip", "redo", "force"])
def test_a_scan_with_a_stamp_is_read_and_the_stamp_is_there_once(
    mode: str, scan: Scan, tmp_path: Path, tesseract: OcrEngine
) -> None:
    """A court's header over a scan is no reason to leave it."""
    path = page(tmp_path / "in.pdf", SCAN + STAMP, scan.image)
    result = read(path, tesseract, mode)
    assert result.status is PageStatus.READ
    assert missed(scan.lines, result.text) <= 2
    assert counts(result.text)["filed"] == 1
    assert counts(merged_text(path, result))["filed"] == 1


@pytest.mark.parametrize("mode", ["skip", "redo"])
def test_a_page_that_is_half_text_half_scan_has_both(
    mode: str, scan: Scan, tmp_path: Path, tesseract: OcrEngine
) -> None:
    """The text as it is in the file, the rest as it was read."""
    lines = b"".join(
        b"BT /F 9 Tf 40 %d Td (number %d typed by a machine) Tj ET " % (270 - 12 * n, n) for n in range(10)
    )
    path = page(tmp_path / "in.pdf", b"q 595 0 0 140 0 0 cm /Scan Do Q " + lines, scan.image)
    result = read(path, tesseract, mode)
    assert result.own_text.count("typed by a machine") == 10
    assert missed(scan.lines, result.text) <= 8  # half the size is 75 dpi
    assert counts(result.text)["machine"] == 10


HIDDEN = b"BT /F 11 Tf %s 40 %d Td (nobody can see this) Tj ET "


@pytest.mark.parametrize(
    "content",
    [
        SCAN + HIDDEN % (b"", 900),
        HIDDEN % (b"", 100) + SCAN,
        SCAN + b"q 0 0 5 5 re W n " + HIDDEN % (b"", 100) + b"Q ",
        SCAN + b"1 g " + HIDDEN % (b"", 270),
        SCAN + HIDDEN % (b"3 Tr", 270),
    ],
    ids=["off the page", "under the image", "clipped", "white on white", "invisible, but no OCR layer"],
)
@pytest.mark.parametrize("mode", ["skip", "redo"])
def test_text_that_nobody_can_see_does_not_count(
    mode: str, content: bytes, scan: Scan, tmp_path: Path, tesseract: OcrEngine
) -> None:
    """What can be seen is read."""
    result = read(page(tmp_path / "in.pdf", content, scan.image), tesseract, mode)
    assert (result.status, result.own_text) == (PageStatus.READ, "")
    assert missed(scan.lines, result.text) <= 2
    assert counts(result.text)["nobody"] == 0


def test_text_under_an_image_that_says_the_same_is_not_added_again(
    scan: Scan, tmp_path: Path, tesseract: OcrEngine
) -> None:
    """Some programs put their OCR layer under the scan in plain sight; searching finds each word once."""
    first = read(page(tmp_path / "first.pdf", SCAN, scan.image), tesseract)
    under = b"".join(
        b"BT /F 9 Tf %d %d Td (%s) Tj ET "
        % (word.x0 * 72 // DPI, HEIGHT - word.y1 * 72 // DPI, re.sub(rb"[^\w.,;]", b"", word.text.encode("latin-1")))
        for word in first.words
    )
    path = page(tmp_path / "in.pdf", under + SCAN, scan.image)
    result = read(path, tesseract)
    assert missed(scan.lines, result.text) <= 2
    twice = counts(merged_text(path, result)) - counts(result.text)
    assert twice.total() <= 2


def test_an_earlier_layer_is_kept_in_skip_and_replaced_in_redo(
    scan: Scan, tmp_path: Path, tesseract: OcrEngine
) -> None:
    """As OCRmyPDF's users know it."""
    path = page(tmp_path / "in.pdf", SCAN, scan.image)
    graft(path, tmp_path / "once.pdf", [read(path, tesseract)])
    kept = read(tmp_path / "once.pdf", tesseract)
    assert (kept.status, kept.reason) == (PageStatus.KEPT, "has_text")
    assert missed(scan.lines, kept.text) <= 2
    again = read(tmp_path / "once.pdf", tesseract, "redo")
    assert again.status is PageStatus.READ
    assert counts(merged_text(tmp_path / "once.pdf", again)) == counts(kept.text)


def test_a_stamp_over_an_earlier_layer_leaves_it(scan: Scan, tmp_path: Path, tesseract: OcrEngine) -> None:
    """Both count in ``skip``; in ``redo`` the stamp counts, and the layer is replaced."""
    path = page(tmp_path / "in.pdf", SCAN, scan.image)
    graft(path, tmp_path / "once.pdf", [read(path, tesseract)])
    with pikepdf.open(tmp_path / "once.pdf", allow_overwriting_input=True) as pdf:
        pdf.pages[0].contents_add(STAMP)
        pdf.save()
    assert read(tmp_path / "once.pdf", tesseract).status is PageStatus.KEPT
    again = read(tmp_path / "once.pdf", tesseract, "redo")
    found = counts(merged_text(tmp_path / "once.pdf", again))
    assert (found - counts(again.text)).total() == 0
    assert found["filed"] == 1


def test_a_watermark_hides_nothing(scan: Scan, tmp_path: Path, tesseract: OcrEngine) -> None:
    """Large letters across the page: what lies under them is read as if they were not there."""
    mark = b"q 0.8 g BT /F 120 Tf 40 80 Td (DRAFT) Tj ET Q "
    result = read(page(tmp_path / "in.pdf", SCAN + mark, scan.image), tesseract)
    assert result.own_text == "DRAFT"
    assert missed(scan.lines, result.text) <= 2


def test_a_page_of_text_with_a_picture_is_kept(tmp_path: Path, tesseract: OcrEngine) -> None:
    """Noise that is read in a picture does not get into it."""
    lines = b"".join(
        b"BT /F 9 Tf 40 %d Td (number %d typed by a machine) Tj ET " % (270 - 12 * n, n) for n in range(10)
    )
    picture = Image.effect_noise((300, 200), 80).resize((600, 400))
    result = read(page(tmp_path / "in.pdf", b"q 200 0 0 120 300 20 cm /Scan Do Q " + lines, picture), tesseract)
    assert (result.status, result.words) == (PageStatus.KEPT, ())


@pytest.mark.parametrize("unit", [1, 2, 10])
def test_the_real_size_of_a_page_counts(unit: int, scan: Scan, tmp_path: Path, tesseract: OcrEngine) -> None:
    """UserUnit: a page of 59.5 units of 10 points is as wide as one of 595 points."""
    small = {"MediaBox": Array([0, 0, WIDTH / unit, HEIGHT / unit]), "UserUnit": unit}
    content = b"q %f 0 0 %f 0 0 cm /Scan Do Q" % (WIDTH / unit, HEIGHT / unit)
    path = page(tmp_path / "in.pdf", content, scan.image, **small)
    result = read(path, tesseract)
    assert missed(scan.lines, result.text) <= 2
    assert result.geometry is not None
    assert result.geometry.width == pytest.approx(WIDTH / 72 * DPI, abs=2)
    assert missed(scan.lines, merged_text(path, result)) <= 2


def test_glyphs_that_stand_for_nothing_are_read(tmp_path: Path, tesseract: OcrEngine) -> None:
    """Text that cannot be copied out of the file is found by its looks."""
    path = page(
        tmp_path / "in.pdf", b"BT /F 24 Tf 40 200 Td (Certificate of registration) Tj ET", Image.new("L", (9, 9))
    )
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        font = pdf.pages[0].Resources.Font.F
        font.ToUnicode = pdf.make_stream(
            b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapType 2 def "
            b"1 begincodespacerange <00> <FF> endcodespacerange "
            + b" ".join(b"1 beginbfchar <%02X> <0000> endbfchar" % code for code in range(33, 127))
            + b" endcmap end end"
        )
        pdf.save()
    result = read(path, tesseract)
    assert "Certificate of registration" in result.text


def test_a_plan_of_five_metres_is_looked_at_in_little_memory(tmp_path: Path) -> None:
    """The small pictures of it stay small."""
    side = 14_400
    content = b"BT /F 400 Tf 400 %d Td (Plan) Tj ET" % (side // 2)
    path = page(tmp_path / "in.pdf", content, Image.new("L", (9, 9)), MediaBox=Array([0, 0, side, side]))
    with PageRenderer(path, dpi=300, mode="skip", timeout=60, memory_bytes=768 << 20) as pages:
        assert pages.render(1).own_text == "Plan"
