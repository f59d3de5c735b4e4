"""Images as documents: what the PDF that is made of them shows, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pikepdf
import pypdfium2
import pytest
from PIL import Image, ImageDraw, ImageOps

from tasks.pdf.images import believed_dpi, make_pdf
from tasks.pdf.preflight import Preflight, Refused, check

#: Pixels of the picture, and its resolution: 4 by 3 inches.
SIZE, DPI = (600, 450), 150


def picture(mode: str = "L") -> Image.Image:
    """Something that looks different however it is turned or mirrored."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 40, 240, 90), fill="black")
    draw.polygon([(400, 60), (560, 60), (560, 400)], fill=(90, 90, 90))
    return image.convert(mode, dither=Image.Dither.NONE)


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **{"dpi": (DPI, DPI), **options})
    return path


def look(path: Path, **options: Any) -> Preflight:
    return check(path, scratch=path.parent, **options)


def made(image: Path) -> Path:
    """What is made of an image, in this process: a child each would take a second."""
    return make_pdf(image, image.parent).path


def assert_shows(pdf: Path, wanted: Image.Image, page: int = 1) -> None:
    """The page looks like the picture, which is compared in small: a page may be a pixel wider."""
    with pypdfium2.PdfDocument(pdf) as document:
        seen = document[page - 1].render(scale=DPI / 72, grayscale=True).to_pil()
    small = (wanted.width // 10, wanted.height // 10)
    pixels = [np.asarray(image.convert("L").resize(small, Image.Resampling.BOX), float) for image in (seen, wanted)]
    assert np.abs(pixels[0] - pixels[1]).mean() < 4


def embedded(pdf: Path) -> tuple[bytes, str]:
    """The data of the first page's image as they are in the file, and their filter."""
    with pikepdf.open(pdf) as document:
        [image] = document.pages[0].obj.Resources.XObject.values()
        assert isinstance(image, pikepdf.Stream)
        return image.read_raw_bytes(), str(image.Filter)


KINDS = {
    "jpeg": ("L", "a.jpg", {}),
    "jpeg in CMYK": ("CMYK", "a.jpg", {}),
    "png": ("RGB", "a.png", {}),
    "png of two tones": ("1", "a.png", {}),
    "png with a palette": ("P", "a.png", {}),
    "png with an alpha channel": ("RGBA", "a.png", {}),
    "gray png with an alpha channel": ("LA", "a.png", {}),
    "tiff": ("RGB", "a.tif", {}),
    "tiff in CMYK": ("CMYK", "a.tif", {"compression": "tiff_lzw"}),
    "tiff as fax": ("1", "a.tif", {"compression": "group4"}),
    "tiff as one strip of fax": ("1", "a.tif", {"compression": "group4", "tiffinfo": {278: SIZE[1]}}),
    "tiff as white fax": ("1", "a.tif", {"compression": "group4", "tiffinfo": {278: SIZE[1], 262: 0}}),
    "tiff as one strip of JPEG": ("L", "a.tif", {"compression": "jpeg", "tiffinfo": {278: SIZE[1]}}),
    "tiff as JPEG": ("RGB", "a.tif", {"compression": "jpeg"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_a_page_that_looks_the_same(kind: str, tmp_path: Path) -> None:
    """In its size on paper, whatever its kind."""
    mode, name, options = KINDS[kind]
    assert_shows(made(saved(picture(mode), tmp_path / name, **options)), picture(mode))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_a_colour(name: str, tmp_path: Path) -> None:
    """Kept in a PNG; eight of them from a TIFF."""
    deep = Image.fromarray(np.asarray(picture()).astype(np.uint16) * 257)
    assert_shows(made(saved(deep, tmp_path / name)), picture())


def test_data_go_into_the_pdf_as_they_are(tmp_path: Path) -> None:
    """Nothing is packed again that need not be."""
    jpeg = saved(picture(), tmp_path / "a.jpg")
    assert embedded(made(jpeg))[0] == jpeg.read_bytes()
    png = saved(picture(), tmp_path / "a.png")
    data, coding = embedded(made(png))
    assert data in png.read_bytes()
    assert coding == "/FlateDecode"
    fax = saved(picture("1"), tmp_path / "a.tif", compression="group4", tiffinfo={278: SIZE[1]})
    data, coding = embedded(made(fax))
    assert data in fax.read_bytes()
    assert "/CCITTFaxDecode" in coding


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "fax.tif"])
def test_an_image_lies_as_its_camera_says(orientation: int, name: str, tmp_path: Path) -> None:
    """Turned and mirrored, as EXIF has it; with a resolution of its own in each direction."""
    exif = Image.Exif()
    exif[0x112] = orientation
    options: dict[str, Any] = {"exif": exif, "quality": 95}
    if name == "a.tif":
        options = {"tiffinfo": {274: orientation}}
    elif name == "fax.tif":
        options = {"tiffinfo": {274: orientation, 278: SIZE[1]}, "compression": "group4"}
    path = saved(picture("1" if name == "fax.tif" else "L"), tmp_path / name, dpi=(DPI, DPI * 2), **options)
    with pypdfium2.PdfDocument(made(path)) as pdf:
        size = pdf[0].get_size()
    assert [round(side) for side in size] == ([288, 108] if orientation < 5 else [108, 288])
    lying = picture("1" if name == "fax.tif" else "L")
    lying.getexif()[0x112] = orientation
    assert_shows(tmp_path / "images.pdf", ImageOps.exif_transpose(lying))


def test_a_tiff_has_pages(tmp_path: Path) -> None:
    """Two hundred of them, of kinds that change."""
    pages = [picture("1"), picture("L")] * 100
    path = saved(pages[0], tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    found = look(path)
    assert found.pages == 200
    assert_shows(found.path, picture(), page=200)


def test_a_reduced_copy_is_no_page(tmp_path: Path) -> None:
    """Scanners put one beside each page, for previews."""
    small = picture().resize((60, 45))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    path = saved(picture(), tmp_path / "a.tif", save_all=True, append_images=[small, picture()])
    with pypdfium2.PdfDocument(made(path)) as pdf:
        assert len(pdf) == 2


def test_a_broken_page_of_a_tiff_is_named(tmp_path: Path) -> None:
    """The others are read."""
    path = saved(picture(), tmp_path / "a.tif", save_all=True, append_images=[picture()], compression="tiff_lzw")
    with Image.open(path) as image:
        image.seek(1)
        offset = image.tag_v2[273][0]  # type: ignore[attr-defined]
    content = bytearray(path.read_bytes())
    content[offset : offset + 100] = b"\xff" * 100
    path.write_bytes(content)
    found = look(path)
    assert (found.pages, found.broken_pages) == (2, ((2, "image_undecodable"),))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bomb(width: int, height: int, colour: int) -> bytes:
    """A small file of a large white picture."""
    channels = {2: 3, 6: 4}[colour]
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(b"\0" + b"\xff" * channels * width) for _ in range(min(height, 20_000)))
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")


REFUSED: dict[str, tuple[bytes | tuple[str, dict[str, Any]], str]] = {
    "a beginning and no PNG": (b"\x89PNG\r\n\x1a\nhello", "image_unreadable"),
    "a beginning and no JPEG": (b"\xff\xd8\xff\xe0hello", "image_unreadable"),
    "a beginning and no TIFF": (b"II*\0hello", "image_unreadable"),
    "pixels as fractions": (("F.tif", {}), "image_unreadable"),
    "too many pixels": (png_bomb(60_000, 60_000, 2)[:100_000], "image_too_large"),
    "too much memory": (png_bomb(13_000, 13_000, 6), "image_memory"),
    "a resolution of 1": (("L.tif", {"dpi": (1, 1)}), "image_dpi"),
    "a resolution of a million": (("L.png", {"dpi": (1e6, 1e6)}), "image_dpi"),
    "an animation": (("L.png", {"save_all": True, "append_images": [picture().rotate(90)]}), "image_animated"),
    "a GIF": (("L.gif", {}), "not_pdf"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str, tmp_path: Path) -> None:
    """With a status and a sentence, and nothing is left of it."""
    content, reason = REFUSED[kind]
    path = tmp_path / "in"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        (mode, suffix), options = content[0].split("."), content[1]
        path = saved(picture(mode), tmp_path / f"in.{suffix}", **options)
    with pytest.raises(Refused) as refused:
        look(path)
    assert (refused.value.reason, refused.value.http_status) == (reason, 415 if reason == "not_pdf" else 422)
    assert refused.value.message.endswith(".")
    assert "{" not in refused.value.message
    assert list(tmp_path.iterdir()) == [path]


def test_more_pages_than_may_be(tmp_path: Path) -> None:
    """As of a PDF."""
    path = saved(picture("1"), tmp_path / "a.tif", save_all=True, append_images=[picture("1")] * 2)
    with pytest.raises(Refused, match="3 pages, and at most 2"):
        look(path, max_pages=2)


@pytest.mark.parametrize(
    ("size", "stated", "believed"),
    [
        ((2550, 3300), (300, 300), 300),
        ((1728, 1100), (204, 98), 204),
        ((2480, 3508), None, 300),
        ((3000, 4000), (72, 72), 342),
        ((800, 600), (96, 96), 96),
        ((16, 16), None, 72),
        ((14_000, 10_000), None, 1198),
    ],
)
def test_a_resolution_is_believed_where_it_makes_a_page(
    size: tuple[int, int], stated: tuple[float, float] | None, believed: int
) -> None:
    """Else the page is as long as A4."""
    assert round(believed_dpi(size, stated)[0]) == believed
