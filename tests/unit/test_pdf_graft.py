"""Text layers: the text comes back exactly, it lies on the ink, and everything else in the document stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pikepdf
import pikepdf.pdfa
import pypdfium2
import pytest
from pikepdf import Array, Dictionary, Name, OutlineItem
from PIL import Image, ImageOps

from tasks.engines import Word
from tasks.page_results import PageResult, PageStatus
from tasks.pdf.geometry import MAX_PIXELS, MAX_SIDE, Geometry, fitting_dpi
from tasks.pdf.graft import GraftFailed, graft
from tasks.pdf.render import PageRenderer
from tasks.pdf.text_layer import fit_lines

pytestmark = pytest.mark.usefixtures("no_cpu_limit")


def empty(path: Path, *, pages: int = 1, content: bytes = b"", **page_entries: object) -> Path:
    with pikepdf.new() as pdf:
        for _ in range(pages):
            page = Dictionary(Type=Name.Page, MediaBox=Array([0, 0, 600, 800]), Contents=pdf.make_stream(content))
            for name, value in page_entries.items():
                page[f"/{name}"] = value
            pdf.pages.append(pikepdf.Page(page))
        pdf.save(path)
    return path


def recognised(words: Sequence[Word], page: int = 1, geometry: Geometry | None = None) -> PageResult:
    geometry = geometry or Geometry((0, 0, 600, 800), 0, 1200, 1600)
    return PageResult(page=page, status=PageStatus.READ, geometry=geometry, words=tuple(words))


def line_of(*texts: str, y: int = 100, line: int = 0) -> list[Word]:
    return [Word(text, 100 + 150 * n, y, 220 + 150 * n, y + 30, 90, line) for n, text in enumerate(texts)]


def text_on(path: Path, page: int = 1) -> str:
    with pypdfium2.PdfDocument(path) as pdf:
        return str(pdf[page - 1].get_textpage().get_text_range()).replace("\r", "").strip()


@pytest.mark.parametrize(
    "texts",
    [
        ("Plain", "words,", "(with)", "\\signs/"),
        ("Straße", "naïve", "“quoted”", "fi—ligature"),
        ("Ελληνικά", "кириллица"),
        ("漢字", "かな", "한국어"),
        ("हिन्दी", "ไทย"),
        ("🙂smile", "🙃"),
    ],
)
def test_text_of_any_script_comes_back_exactly(texts: tuple[str, ...], tmp_path: Path) -> None:
    """The font holds no glyphs, so it holds them all."""
    graft(empty(tmp_path / "in.pdf"), tmp_path / "out.pdf", [recognised(line_of(*texts))])
    assert text_on(tmp_path / "out.pdf") == " ".join(texts)


def test_an_archive_file_stays_one(tmp_path: Path) -> None:
    """PDF/A-2b in, PDF/A-2b out: pikepdf judges by veraPDF's rules, and approves only what it knows to conform."""
    with pikepdf.open(empty(tmp_path / "plain.pdf")) as pdf:
        assert pikepdf.pdfa.save(pdf, tmp_path / "in.pdf", "2b").passed
    graft(tmp_path / "in.pdf", tmp_path / "out.pdf", [recognised(line_of("Plain", "Straße", "漢字", "🙂"))])
    report = pikepdf.pdfa.validate_written(tmp_path / "out.pdf", "2b")
    assert [str(finding) for finding in report.findings] == []
    assert report.passed


def test_a_layer_takes_little(tmp_path: Path) -> None:
    """A page of three hundred words grows by ten bytes for each."""
    words = [word for line in range(40) for word in line_of(*[f"word{line}"] * 8, y=100 + 35 * line, line=line)]
    path = empty(tmp_path / "in.pdf", pages=11)
    sizes = []
    for pages in (1, 11):
        graft(path, tmp_path / "out.pdf", [recognised(words, page) for page in range(1, pages + 1)])
        sizes.append((tmp_path / "out.pdf").stat().st_size)
    assert (sizes[1] - sizes[0]) / 10 < 10 * len(words)


def test_lines_come_back_as_lines(tmp_path: Path) -> None:
    """Boxes end at different heights; readers still see one line, and the next one as another."""
    words = [
        Word("on", 100, 110, 150, 130, 90, 0),
        Word("type", 170, 102, 250, 138, 90, 0),
        Word("a", 270, 110, 290, 130, 90, 0),
        Word("Then", 100, 160, 200, 190, 90, 1),
    ]
    graft(empty(tmp_path / "in.pdf"), tmp_path / "out.pdf", [recognised(words)])
    assert text_on(tmp_path / "out.pdf") == "on type a\nThen"


def test_a_skewed_line_keeps_its_slope() -> None:
    """A scan is never straight: the words of a line climb with it."""
    words = [Word("word", 100 * n, 500 - 5 * n, 100 * n + 80, 530 - 5 * n, 90, 0) for n in range(10)]
    (line,) = fit_lines(words)
    assert line.slope == pytest.approx(-0.05)
    assert line.height == pytest.approx(30)


def test_a_descender_does_not_tilt_a_short_line() -> None:
    """Two words have no slope of their own."""
    (line,) = fit_lines([Word("on", 0, 10, 50, 30, 90, 0), Word("typ", 60, 10, 110, 38, 90, 0)])
    assert line.slope == 0


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize(
    "boxes",
    [
        {},
        {"MediaBox": Array([-100, 50, 500, 850])},
        {"CropBox": Array([50, 100, 400, 700])},
        {"MediaBox": Array([10, 20, 610, 820]), "CropBox": Array([-50, 100, 400, 5000])},
    ],
    ids=["plain", "odd origin", "cropped", "crop box beyond"],
)
def test_words_lie_on_the_ink(rotation: int, boxes: dict[str, Array], tmp_path: Path) -> None:
    """A black bar is rendered, found in the bitmap, grafted as a word and read back: it is where the bar was drawn."""
    bar = (120, 300, 280, 340)
    path = empty(tmp_path / "in.pdf", content=b"120 300 160 40 re f", Rotate=rotation, **boxes)
    with PageRenderer(path, dpi=144, mode="skip", timeout=30) as renderer:
        seen = renderer.render(1)
    assert seen.bitmap is not None
    size = (seen.bitmap.width, seen.bitmap.height)
    image = Image.frombuffer("L", size, seen.bitmap.pixels, "raw", "L", seen.bitmap.stride, 1)
    ink = ImageOps.invert(image).getbbox()
    assert ink is not None
    word = Word("bar", *ink, 90, 0)
    graft(path, tmp_path / "out.pdf", [recognised([word], geometry=seen.geometry)])
    with pypdfium2.PdfDocument(tmp_path / "out.pdf") as pdf:
        page = pdf[0].get_textpage()
        chars = [page.get_charbox(index) for index in range(3)]
    found = (
        min(box[0] for box in chars),
        min(box[1] for box in chars),
        max(box[2] for box in chars),
        max(box[3] for box in chars),
    )
    # pdfium makes a character's box higher by a 64th; one that stands upright here is 160 points high.
    assert found == pytest.approx(bar, abs=160 / 64 + 1)


def test_the_page_looks_as_before(tmp_path: Path) -> None:
    """The layer is invisible to the last pixel."""
    path = empty(tmp_path / "in.pdf", content=b"0.5 g 100 100 300 300 re f")
    graft(path, tmp_path / "out.pdf", [recognised(line_of("some", "words"))])
    with pypdfium2.PdfDocument(path) as before, pypdfium2.PdfDocument(tmp_path / "out.pdf") as after:
        assert bytes(before[0].render().buffer) == bytes(after[0].render().buffer)


def test_everything_else_in_the_document_stays(tmp_path: Path) -> None:
    """Outline, labels, links, attachments, forms, metadata, language, layers."""
    path = empty(tmp_path / "in.pdf", pages=3)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        with pdf.open_outline() as outline:
            outline.root.append(OutlineItem("Chapter", 1))
        pdf.Root.PageLabels = Dictionary(Nums=Array([0, Dictionary(S=Name.r)]))
        link = Dictionary(Type=Name.Annot, Subtype=Name.Link, Rect=[0, 0, 9, 9], Dest=[pdf.pages[2].obj, Name.Fit])
        pdf.pages[0].obj.Annots = Array([pdf.make_indirect(link)])
        pdf.attachments["note.txt"] = b"attached"
        pdf.Root.AcroForm = Dictionary(Fields=Array([pdf.make_indirect(Dictionary(FT=Name.Tx, T="field"))]))
        pdf.Root.Lang = "de"
        pdf.docinfo["/Title"] = "A title"
        pdf.save()
    graft(path, tmp_path / "out.pdf", [recognised(line_of("text"), page) for page in (1, 2, 3)])
    with pikepdf.open(tmp_path / "out.pdf") as pdf:
        with pdf.open_outline() as outline:
            assert [item.title for item in outline.root] == ["Chapter"]
        assert pdf.pages[1].label == "ii"
        assert pdf.pages[0].obj.Annots[0].Dest[0].objgen == pdf.pages[2].obj.objgen
        assert pdf.attachments["note.txt"].get_file().read_bytes() == b"attached"
        assert str(pdf.Root.AcroForm.Fields[0].T) == "field"
        assert (str(pdf.Root.Lang), str(pdf.docinfo["/Title"])) == ("de", "A title")


def test_pages_that_share_their_resources_keep_their_own_layers(tmp_path: Path) -> None:
    """Each layer has the page's number in its name, and no name is taken twice."""
    path = empty(tmp_path / "in.pdf", pages=3)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        shared = pdf.make_indirect(Dictionary(XObject=Dictionary({"/OCR-2": pdf.make_stream(b"")})))
        for page in pdf.pages:
            page.obj.Resources = shared
        pdf.save()
    graft(path, tmp_path / "out.pdf", [recognised(line_of(f"page{n}"), n) for n in (1, 2, 3)])
    assert [text_on(tmp_path / "out.pdf", n) for n in (1, 2, 3)] == ["page1", "page2", "page3"]


def test_the_font_is_there_once(tmp_path: Path) -> None:
    """However many pages use it."""
    path = empty(tmp_path / "in.pdf", pages=20)
    graft(path, tmp_path / "out.pdf", [recognised(line_of("text"), page) for page in range(1, 21)])
    with pikepdf.open(tmp_path / "out.pdf") as pdf:
        assert sum(isinstance(o, Dictionary) and o.get("/Subtype") == Name.Type0 for o in pdf.objects) == 1


def test_merging_again_gives_the_same_file(tmp_path: Path) -> None:
    """A second attempt may replace the first one's output at any time."""
    path = empty(tmp_path / "in.pdf")
    for name in ("a.pdf", "b.pdf"):
        graft(path, tmp_path / name, [recognised(line_of("text"))])
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_an_old_layer_is_replaced_and_visible_text_is_not(tmp_path: Path) -> None:
    """``redo``: the earlier OCR goes from the page and from its forms; what can be seen stays."""
    path = empty(tmp_path / "in.pdf")
    graft(path, tmp_path / "once.pdf", [recognised(line_of("old", "layer"))])
    with pikepdf.open(tmp_path / "once.pdf", allow_overwriting_input=True) as pdf:
        font = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica)
        pdf.pages[0].add_resource(font, Name.Font, name=Name.H)
        pdf.pages[0].contents_add(
            b"BT /H 12 Tf 9 500 Td (seen) Tj 3 Tr 0 -20 Td (hidden) Tj q 0 Tr 0 -20 Td (back) Tj Q (gone) ' ET"
        )
        pdf.save()
    again = recognised(line_of("new"))
    replacing = PageResult(
        page=1, status=PageStatus.READ, geometry=again.geometry, words=again.words, replaces_layer=True
    )
    assert graft(tmp_path / "once.pdf", tmp_path / "twice.pdf", [replacing]) == []
    assert text_on(tmp_path / "twice.pdf").split() == ["new", "seen", "back"]


def test_an_encrypted_document_stays_encrypted(tmp_path: Path) -> None:
    """The owner's restrictions are the owner's to lift."""
    with pikepdf.open(empty(tmp_path / "plain.pdf")) as pdf:
        pdf.save(tmp_path / "in.pdf", encryption=pikepdf.Encryption(user="", owner="owner"))
    graft(tmp_path / "in.pdf", tmp_path / "out.pdf", [recognised(line_of("text"))])
    with pikepdf.open(tmp_path / "out.pdf") as pdf:
        assert pdf.is_encrypted
    assert text_on(tmp_path / "out.pdf") == "text"


def test_a_page_with_broken_objects_takes_no_layer_and_is_named(tmp_path: Path) -> None:
    """The other pages get theirs."""
    path = empty(tmp_path / "in.pdf", pages=2)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        pdf.pages[0].obj.Resources = Dictionary(XObject=5)
        pdf.save()
    assert graft(path, tmp_path / "out.pdf", [recognised(line_of("text"), n) for n in (1, 2)]) == [1]
    assert text_on(tmp_path / "out.pdf", 2) == "text"


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """One exception for whatever the libraries raise."""
    (tmp_path / "in.pdf").write_bytes(b"%PDF-1.7\n")
    with pytest.raises(GraftFailed, match="could not be added"):
        graft(tmp_path / "in.pdf", tmp_path / "out.pdf", [])


@pytest.mark.parametrize("size", [(595, 842), (1, 1), (2384, 3370), (14400, 14400), (3, 14400)])
def test_a_page_gets_the_resolution_that_its_size_allows(size: tuple[float, float]) -> None:
    """All of 300 dpi for ordinary paper; less for a plan, so that its bitmap stays within bounds."""
    dpi = fitting_dpi(*size, 300)
    assert dpi is not None
    width, height = (side * dpi / 72 for side in size)
    assert width * height <= MAX_PIXELS * 1.000001
    assert max(width, height) <= MAX_SIDE * 1.000001
    assert dpi == 300 or width * height > MAX_PIXELS * 0.99 or max(width, height) > MAX_SIDE * 0.99


def test_a_page_that_is_too_large_for_any_resolution_gets_none() -> None:
    """The preflight refuses it."""
    assert fitting_dpi(2_000_000, 2_000_000, 300) is None
