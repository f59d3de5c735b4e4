"""Images whose data ends too early: found where it is cheap to know, and no whole one is suspected."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pikepdf
import pypdfium2
import pytest
from pikepdf import Array, Dictionary, Name
from PIL import Image, ImageDraw

from tasks.engines.null import NullEngine
from tasks.page_results import PageStatus
from tasks.pdf.image_faults import find_fault, opened
from tasks.pdf.render import PageRenderer
from tasks.recognition import recognise_pages

SIZE = (600, 800)
Kind = Callable[[], tuple[bytes, Dictionary]]


@pytest.fixture(autouse=True)
def _no_document_is_kept() -> None:
    opened.cache_clear()


def _scan(mode: str) -> Image.Image:
    image = Image.new("L", SIZE, 255)
    draw = ImageDraw.Draw(image)
    for line in range(20, SIZE[1] - 20, 30):
        draw.text((40, line), f"Line {line} of a page that was scanned, and of which a part is lost.", fill=0)
    return image.convert(mode)


def _jpeg() -> tuple[bytes, Dictionary]:
    data = io.BytesIO()
    _scan("L").save(data, "JPEG", quality=80)
    return data.getvalue(), Dictionary(Filter=Name.DCTDecode, ColorSpace=Name.DeviceGray, BitsPerComponent=8)


def _jpeg_2000() -> tuple[bytes, Dictionary]:
    data = io.BytesIO()
    _scan("L").save(data, "JPEG2000")
    return data.getvalue(), Dictionary(Filter=Name.JPXDecode, ColorSpace=Name.DeviceGray, BitsPerComponent=8)


def _flate() -> tuple[bytes, Dictionary]:
    data = zlib.compress(_scan("L").tobytes())
    return data, Dictionary(Filter=Name.FlateDecode, ColorSpace=Name.DeviceGray, BitsPerComponent=8)


def _fax() -> tuple[bytes, Dictionary]:
    tiff = io.BytesIO()
    _scan("1").save(tiff, "TIFF", compression="group4")
    with Image.open(tiff) as image:
        (offset,), (length,) = image.tag_v2[273], image.tag_v2[279]  # type: ignore[attr-defined]
    parameters = Dictionary(K=-1, Columns=SIZE[0], Rows=SIZE[1])
    return tiff.getvalue()[offset : offset + length], Dictionary(
        Filter=Name.CCITTFaxDecode, DecodeParms=parameters, ColorSpace=Name.DeviceGray, BitsPerComponent=1
    )


def _jbig2() -> tuple[bytes, Dictionary]:
    """A page and one region on it, whose data is coded as a fax image's (MMR)."""
    width, height = SIZE
    fax, _ = _fax()
    page = struct.pack(">IIIIBH", width, height, 0, 0, 0, 0)
    region = struct.pack(">IIIIBB", width, height, 0, 0, 0, 1) + fax
    data = b"".join(
        struct.pack(">IBBBI", number, kind, 0, 1, len(content)) + content
        for number, (kind, content) in enumerate([(48, page), (38, region), (49, b"")])
    )
    return data, Dictionary(Filter=Name.JBIG2Decode, ColorSpace=Name.DeviceGray, BitsPerComponent=1)


def _behind(kind: Callable[[], tuple[bytes, Dictionary]], pack: Callable[[bytes], bytes], name: Name) -> Kind:
    """The same data behind another filter."""

    def make() -> tuple[bytes, Dictionary]:
        data, about = kind()
        about.Filter = Array([name, about.Filter])
        if "/DecodeParms" in about:
            about.DecodeParms = Array([Dictionary(), about.DecodeParms])
        return pack(data), about

    return make


def _ascii85(data: bytes) -> bytes:
    return base64.a85encode(data) + b"~>"


KINDS: dict[str, Kind] = {"JPEG": _jpeg, "JPEG 2000": _jpeg_2000, "Flate": _flate, "G4": _fax, "JBIG2": _jbig2}
#: What is cut is the image itself, behind a filter that is whole.
BEHIND = {
    "JPEG in Flate": (_jpeg, zlib.compress, Name.FlateDecode),
    "JPEG in ASCII85": (_jpeg, _ascii85, Name.ASCII85Decode),
    "JPEG 2000 in Flate": (_jpeg_2000, zlib.compress, Name.FlateDecode),
    "G4 in Flate": (_fax, zlib.compress, Name.FlateDecode),
    "JBIG2 in Flate": (_jbig2, zlib.compress, Name.FlateDecode),
}


def _document(path: Path, *images: tuple[bytes, Dictionary], forms: int = 0) -> Path:
    """One page that draws each image, inside of so many forms."""
    with pikepdf.new() as pdf:
        page = pdf.add_blank_page(page_size=(300, 400))
        drawn, contents = Dictionary(), b""
        for number, (data, about) in enumerate(images):
            stream = pikepdf.Stream(pdf, data)
            for name, value in about.items():
                stream[name] = value
            stream.Type, stream.Subtype, stream.Width, stream.Height = Name.XObject, Name.Image, *SIZE
            drawn[f"/I{number}"] = pdf.make_indirect(stream)
            contents += b"q 300 0 0 400 0 0 cm /I%d Do Q " % number
        for number in range(forms):
            form = pdf.make_stream(contents, Type=Name.XObject, Subtype=Name.Form, BBox=Array([0, 0, 300, 400]))
            form.Resources = Dictionary(XObject=drawn)
            # It draws itself, too.
            drawn[f"/F{number}"] = form
            drawn, contents = Dictionary({f"/F{number}": form}), b"/F%d Do " % number
        page.Resources = Dictionary(XObject=drawn)
        page.Contents = pdf.make_stream(contents)
        pdf.save(path, compress_streams=False, stream_decode_level=pikepdf.StreamDecodeLevel.none)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_image_is_not_suspected(kind: str, tmp_path: Path) -> None:
    """A false alarm would name a page that was read."""
    path = _document(tmp_path / "in.pdf", KINDS[kind]())
    assert find_fault(path, 0, thorough=False) is None
    assert find_fault(path, 0, thorough=True) is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_was_cut_in_half_is_found(kind: str, tmp_path: Path) -> None:
    """Also as the second of two, of which the first is sound."""
    data, about = KINDS[kind]()
    cut = (data[: len(data) // 2], about)
    for name, images in (("one", [cut]), ("second", [_flate(), cut])):
        assert find_fault(_document(tmp_path / f"{name}.pdf", *images), 0, thorough=False) == "image_incomplete"
        opened.cache_clear()


@pytest.mark.parametrize("name", BEHIND)
def test_an_image_behind_another_filter_is_looked_at(name: str, tmp_path: Path) -> None:
    """A whole one is not suspected, one that was cut is found."""
    kind, pack, outer = BEHIND[name]
    data, about = kind()
    for end, fault in ((len(data), None), (len(data) // 2, "image_incomplete")):
        made = _behind(lambda end=end: (data[:end], Dictionary(about)), pack, outer)()
        path = _document(tmp_path / f"{end}.pdf", made)
        assert [find_fault(path, 0, thorough=thorough) for thorough in (False, True)] == [fault, fault]
        opened.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_in_forms_is_looked_at(kind: str, tmp_path: Path) -> None:
    """However deep; scanners and stamps wrap pages so."""
    data, about = KINDS[kind]()
    assert find_fault(_document(tmp_path / "whole.pdf", (data, about), forms=2), 0, thorough=True) is None
    opened.cache_clear()
    cut = _document(tmp_path / "cut.pdf", (data[: len(data) // 2], about), forms=2)
    assert find_fault(cut, 0, thorough=False) == "image_incomplete"


def test_a_form_that_draws_itself_is_looked_into_once(tmp_path: Path) -> None:
    """Else a file of a kilobyte keeps this busy for ever."""
    path = tmp_path / "in.pdf"
    with pikepdf.new() as pdf:
        form = pdf.make_stream(b"/F Do " * 50, Type=Name.XObject, Subtype=Name.Form, BBox=Array([0, 0, 9, 9]))
        form.Resources = Dictionary(XObject=Dictionary(F=form))
        page = pdf.add_blank_page()
        page.Resources = Dictionary(XObject=Dictionary(F=form))
        page.Contents = pdf.make_stream(b"/F Do /F Do")
        pdf.save(path)
    assert find_fault(path, 0, thorough=True) is None


def _layered(path: Path, how: str, *, off: bool = True, share: float = 1.0) -> Path:
    """A scan on a layer, over a share of the page's width: the layer of the image itself, around it, or of its form."""
    _document(path, _jpeg(), forms=1 if how == "form" else 0)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        page = pdf.pages[0]
        group = pdf.make_indirect(Dictionary(Type=Name.OCG, Name="Scan"))
        default = Dictionary(BaseState=Name.OFF, ON=Array()) if how == "base" else Dictionary(OFF=Array([group]))
        if not off:
            default = Dictionary(BaseState=Name.OFF, ON=Array([group])) if how == "base" else Dictionary()
        pdf.Root.OCProperties = Dictionary(OCGs=Array([group]), D=default)
        contents = page.Contents.read_bytes().replace(b"q 300 0", b"q %d 0" % round(300 * share))
        (drawn,) = page.Resources.XObject.values()
        if how == "marked":
            page.Resources.Properties = Dictionary(L=group)
            contents = b"/OC /L BDC " + contents + b" EMC"
        elif how == "membership":
            drawn.OC = Dictionary(Type=Name.OCMD, OCGs=Array([group]), P=Name.AllOn)
        else:
            drawn.OC = group
        page.Contents = pdf.make_stream(contents)
        pdf.save()
    return path


@pytest.mark.parametrize("how", ["image", "marked", "membership", "form", "base"])
def test_a_scan_on_a_layer_that_is_switched_off_is_found(how: str, tmp_path: Path) -> None:
    """Nobody sees it, so nothing is read; one that is switched on is read as any other."""
    assert find_fault(_layered(tmp_path / "off.pdf", how), 0, thorough=False) == "hidden_layer"
    opened.cache_clear()
    assert find_fault(_layered(tmp_path / "on.pdf", how, off=False), 0, thorough=True) is None


def test_a_hidden_ornament_is_no_loss(tmp_path: Path) -> None:
    """A small image on a layer that is switched off."""
    assert find_fault(_layered(tmp_path / "in.pdf", "image", share=0.2), 0, thorough=True) is None


def test_what_is_hidden_is_hidden_by_the_renderer(tmp_path: Path) -> None:
    """The page's status and its sentence, from the file to the result."""
    with PageRenderer(_layered(tmp_path / "in.pdf", "marked"), dpi=150, mode="skip", timeout=60) as renderer:
        (result,) = recognise_pages([1], renderer, NullEngine(), page_timeout=60)
    assert (result.status, result.reason) == (PageStatus.UNREADABLE, "hidden_layer")
    assert result.message == "Page 1 has an image on a layer that is switched off."


@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_are_drawn(kind: str, tmp_path: Path) -> None:
    """They are real images: the renderer shows what is on them."""
    with pypdfium2.PdfDocument(_document(tmp_path / "in.pdf", KINDS[kind]())) as pdf:
        darkest, lightest = pdf[0].render(grayscale=True).to_pil().getextrema()
    assert lightest - darkest > 128


OPERATORS = zlib.compress(b"0 0 m 100 100 l S\n" * 500)
BROKEN = {
    "cut": (OPERATORS[:-20], Name.FlateDecode),
    "not deflated": (b"\xff\xfe\x00no such thing", Name.FlateDecode),
    "garbage": (bytes(range(128, 250)) * 5, None),
}


def _contents(path: Path, data: bytes, name: Name | None) -> Path:
    with pikepdf.new() as pdf:
        stream = pikepdf.Stream(pdf, data)
        if name is not None:
            stream.Filter = name
        pdf.add_blank_page().Contents = pdf.make_indirect(stream)
        pdf.save(path, compress_streams=False, stream_decode_level=pikepdf.StreamDecodeLevel.none)
    return path


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_contents_are_no_blank_page(kind: str, tmp_path: Path) -> None:
    """The renderer draws what it understands, and says nothing of the rest."""
    with PageRenderer(_contents(tmp_path / "in.pdf", *BROKEN[kind]), dpi=72, mode="skip", timeout=60) as renderer:
        (result,) = recognise_pages([1], renderer, NullEngine(), page_timeout=60)
    assert (result.status, result.reason) == (PageStatus.UNREADABLE, "content_broken")


def test_what_ends_too_early_is_found_without_reading_all(tmp_path: Path) -> None:
    """A page of which half is read is damaged."""
    assert find_fault(_contents(tmp_path / "in.pdf", *BROKEN["cut"]), 0, thorough=False) == "content_broken"


def test_contents_that_are_named_and_not_there_are_broken(tmp_path: Path) -> None:
    """One of two streams, of which the other is whole."""
    path = _contents(tmp_path / "in.pdf", OPERATORS, Name.FlateDecode)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        page = pdf.pages[0]
        page.obj.Contents = Array([page.obj.Contents, Dictionary()])
        pdf.save()
    assert find_fault(path, 0, thorough=False) == "content_broken"


@pytest.mark.parametrize("data", [OPERATORS, OPERATORS[:-4], OPERATORS + b"\r\n"])
def test_whole_contents_are_not_suspected(data: bytes, tmp_path: Path) -> None:
    """With their checksum, without it, or with a line's end behind it; nor are none at all."""
    assert find_fault(_contents(tmp_path / "in.pdf", data, Name.FlateDecode), 0, thorough=True) is None
    opened.cache_clear()
    assert find_fault(_contents(tmp_path / "none.pdf", b" \n", None), 0, thorough=True) is None


def test_bytes_behind_a_whole_image_do_no_harm(tmp_path: Path) -> None:
    """Scanners pad: what looks short is decoded, to see."""
    data, about = _jpeg()
    padded = _document(tmp_path / "padded.pdf", (data + b"\0" * 200, about))
    assert find_fault(padded, 0, thorough=False) is None


def test_an_image_that_takes_too_much_memory_is_named(tmp_path: Path) -> None:
    """It is not broken; it is not unpacked to find out."""
    data, about = _flate()
    path = _document(tmp_path / "in.pdf", (data, about))
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        (image,) = pdf.pages[0].obj.Resources.XObject.values()
        image.Width, image.Height = 30_000, 30_000
        pdf.save(compress_streams=False, stream_decode_level=pikepdf.StreamDecodeLevel.none)
    assert find_fault(path, 0, thorough=True) == "image_too_large"


def test_the_resources_of_a_page_may_be_anything(tmp_path: Path) -> None:
    """A page without any draws an image that is missing."""
    path = _document(tmp_path / "in.pdf", _jpeg())
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        pdf.pages[0].Resources = Dictionary(XObject=Array())
        pdf.save(path)
    assert find_fault(path, 0, thorough=False) == "image_missing"
