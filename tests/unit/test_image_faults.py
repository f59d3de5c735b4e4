"""Images whose data ends too early: found where it is cheap to know, and no whole one is suspected."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name
from PIL import Image, ImageDraw

from tasks.pdf.image_faults import find_fault, opened

SIZE = (600, 800)


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


Kind = Callable[[], tuple[bytes, Dictionary]]
KINDS: dict[str, Kind] = {"JPEG": _jpeg, "JPEG 2000": _jpeg_2000, "Flate": _flate, "G4": _fax}


def _document(path: Path, *images: tuple[bytes, Dictionary]) -> Path:
    """One page that draws each image."""
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


def test_bytes_behind_a_whole_image_do_no_harm(tmp_path: Path) -> None:
    """Scanners pad: what looks short is decoded, to see."""
    data, about = _jpeg()
    padded = _document(tmp_path / "padded.pdf", (data + b"\0" * 200, about))
    assert find_fault(padded, 0, thorough=False) is None


def test_the_resources_of_a_page_may_be_anything(tmp_path: Path) -> None:
    """A page without any draws an image that is missing."""
    path = _document(tmp_path / "in.pdf", _jpeg())
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        pdf.pages[0].Resources = Dictionary(XObject=Array())
        pdf.save(path)
    assert find_fault(path, 0, thorough=False) == "image_missing"
