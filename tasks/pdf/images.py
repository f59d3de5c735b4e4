"""Images to a PDF of a page each, which shows them as they are. Runs in the preflight's child: an image is as untrusted
as a PDF.

JPEG and PNG data go into the PDF as they are, and so do the pages of a TIFF that are one strip of fax (group 4) or
JPEG data. Other pages of a TIFF are unpacked and packed again without loss: two tones in fax coding, the rest as PNG
does it. What no PDF can hold is changed: 16 bits a colour in a TIFF, or beside an alpha channel, become 8. An alpha
channel stays as a mask, which readers show on white. CMYK stays.
"""

from __future__ import annotations

import io
import math
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import img2pdf
import numpy as np
import pikepdf
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from tasks.pdf.image_kinds import MAX_DPI, MAX_PIXELS, MIN_IMAGE_DPI

#: How Pillow calls what is accepted. A phone's JPEG may have a preview behind it; the first is the picture.
_FORMATS = ("TIFF", "JPEG", "PNG")
#: Inches of the longer side of a page whose resolution is not known: those of A4.
_ASSUMED_INCHES = 11.69
_ASSUMED_DPI = (72.0, 1200.0)
#: Cameras and screens write so many dpi, or less, when they know nothing; it is believed up to this size of a page.
_SCREEN_DPI, _SCREEN_INCHES = 96, 24.0
#: No page of a PDF is longer.
_MAX_INCHES = 200.0
#: Pages of a TIFF: each is a file until they are joined.
MAX_TIFF_PAGES = 2_000

#: Tags of a TIFF, and what stands in them.
_NEW_SUBFILE_TYPE, _REDUCED_COPY = 254, 1
_WIDTH, _HEIGHT, _BITS, _ROWS_PER_STRIP = 256, 257, 258, 278
_COMPRESSION, _GROUP_4, _JPEG = 259, 4, 7
_PHOTOMETRIC, _FILL_ORDER, _ORIENTATION = 262, 266, 274
_STRIP_OFFSETS, _STRIP_LENGTHS, _JPEG_TABLES = 273, 279, 347
#: Gray, and the three that a JPEG without a mark has.
_JPEG_COLOURS = (1, 6)
_JPEG_BEGINS = b"\xff\xd8"

#: EXIF's orientation → whether the picture is mirrored, left to right, and the degrees it is then turned clockwise.
_ORIENTATIONS: Mapping[int, tuple[bool, int]] = MappingProxyType(
    {
        1: (False, 0),
        2: (True, 0),
        3: (False, 180),
        4: (True, 180),
        5: (True, 270),
        6: (False, 90),
        7: (True, 90),
        8: (False, 270),
    }
)


class ImageRefused(Exception):
    """The image is not accepted: a key of ``REFUSALS``, and what its sentence needs."""

    def __init__(self, reason: str, **details: Any) -> None:
        super().__init__(reason)
        self.reason = reason
        self.details = details


class MadePdf(NamedTuple):
    """The PDF, and its pages whose image could not be read, each with the reason: they are empty."""

    path: Path
    broken_pages: list[tuple[int, str]]


def make_pdf(path: Path, scratch: Path) -> MadePdf:
    """The image at ``path`` as a PDF in ``scratch``.

    :raises ImageRefused: when it is not accepted.
    """
    # Sizes are checked here, before anything is unpacked, and with a sentence.
    Image.MAX_IMAGE_PIXELS = None
    out = scratch / "images.pdf"
    try:
        # By its path, Pillow 13 maps uncompressed pixels into memory, and takes width for height where they are turned.
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            if image.format == "TIFF":
                return MadePdf(out, _from_tiff(image, scratch, out))
            if image.format == "PNG" and getattr(image, "is_animated", False):
                raise ImageRefused("image_animated")
            _from_one(path, image, out)
            return MadePdf(out, [])
    except ImageRefused:
        raise
    except UnidentifiedImageError:
        raise ImageRefused("image_unreadable") from None
    except MemoryError:
        raise ImageRefused("image_memory") from None
    except Exception:  # every format has its own
        raise ImageRefused("image_unreadable") from None


def _from_one(path: Path, image: Image.Image, out: Path) -> None:
    """A JPEG or PNG file, as it is where that can be."""
    dpi = _dpi(image, 1)
    for content in (path.read_bytes, lambda: _packed(image)):
        try:
            made = _one_page(content(), dpi)
            break
        except (OSError, MemoryError):
            raise
        except Exception:  # img2pdf has a dozen reasons for not embedding an image
            continue
    else:
        raise ImageRefused("image_unreadable")
    out.write_bytes(_turned(made, _orientation(image)))


def _from_tiff(image: Image.Image, scratch: Path, out: Path) -> list[tuple[int, str]]:
    """Each page of a TIFF; the answer names those that could not be read."""
    frames = getattr(image, "n_frames", 1)
    if frames > MAX_TIFF_PAGES:
        raise ImageRefused("too_many_pages", pages=frames, limit=MAX_TIFF_PAGES)
    _open_files(frames + 100)
    broken: list[tuple[int, str]] = []
    with ExitStack() as stack, pikepdf.new() as pdf:
        for page, make in enumerate(_frames(image, frames), start=1):
            part = scratch / f"page-{page}.pdf"
            # pikepdf reads what it takes over when it saves.
            stack.callback(part.unlink, missing_ok=True)
            try:
                part.write_bytes(make(page))
            except (ImageRefused, MemoryError):
                raise
            except Exception:  # a page that is broken, or of a kind that nothing reads
                pdf.add_blank_page(page_size=(612, 792))
                broken.append((page, "image_undecodable"))
                continue
            pdf.pages.append(stack.enter_context(pikepdf.open(part)).pages[0])
        if len(broken) == len(pdf.pages):
            raise ImageRefused("image_unreadable")
        pdf.save(out)
    return broken


def _frames(image: Image.Image, count: int) -> Iterator[Callable[[int], bytes]]:
    """Of each page, what makes it a PDF. Reduced copies, for previews, are no pages."""
    for index in range(count):
        image.seek(index)
        tags = getattr(image, "tag_v2", {})
        if (
            index
            and int(
                tags.get(  #: zlib's strategy that looks for repeated bytes only: half the time, and smaller for scans.
                    _NEW_SUBFILE_TYPE, 0
                )
            )
            & _REDUCED_COPY
        ):
            continue

        yield partial(_tiff_page, image)


def _tiff_page(image: Image.Image, page: int) -> bytes:
    """The page of a TIFF that ``image`` is at."""
    dpi = _dpi(image, page)
    strip = _as_it_is(image)
    if strip is not None:
        return _turned(_one_page(strip, dpi), _orientation(image))
    # Pillow turns the pixels as the file's orientation says, and leaves the resolution as it is.
    _, turned = _orientation(image)
    return _one_page(_packed(image), dpi if turned % 180 == 0 else (dpi[1], dpi[0]))


def _as_it_is(image: Image.Image) -> bytes | None:
    """The data of a page that a PDF can hold as they are, in a file of their own; None for another page.

    Of a JPEG, only what has its usual colours: others are told by marks that the TIFF has, and it has not.
    """
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    file: BinaryIO | None = getattr(image, "fp", None)
    offsets, lengths = tags.get(_STRIP_OFFSETS, ()), tags.get(_STRIP_LENGTHS, ())
    if file is None or len(offsets) != 1 or len(lengths) != 1:
        return None
    file.seek(offsets[0])
    compression, photometric = tags.get(_COMPRESSION), tags.get(_PHOTOMETRIC)
    if compression == _GROUP_4 and image.mode == "1" and photometric in (0, 1):
        return _fax_file(tags, file.read(lengths[0]))
    if compression == _JPEG and photometric in _JPEG_COLOURS:
        tables, data = bytes(tags.get(_JPEG_TABLES, b"")), file.read(lengths[0])
        if data.startswith(_JPEG_BEGINS):
            return tables[:-2] + data[2:] if tables else data
    return None


def _fax_file(tags: Mapping[int, Any], strip: bytes) -> bytes:
    """One strip of fax data as a TIFF."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in (_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC):
        directory[tag] = tags[tag]
    directory[_BITS], directory[_FILL_ORDER] = 1, tags.get(_FILL_ORDER, 1)
    directory[_ROWS_PER_STRIP], directory[_STRIP_LENGTHS] = tags[_HEIGHT], len(strip)
    # Counted from the end of the directory: Pillow adds that when it writes it.
    directory[_STRIP_OFFSETS] = 0
    target = io.BytesIO()
    directory.save(target)
    return target.getvalue() + strip


def _dpi(image: Image.Image, page: int) -> tuple[float, float]:
    """The resolution across and down, once the size is known to be one that can be read."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageRefused("image_too_large", page=page, width=width, height=height, limit=MAX_PIXELS // 1_000_000)
    return believed_dpi((width, height), image.info.get("dpi"))


def believed_dpi(size: tuple[int, int], stated: Any) -> tuple[float, float]:
    """The resolution of an image of this many pixels that states this one, or None.

    :raises ImageRefused: for one that cannot be.
    """
    longer = max(size)
    if stated is not None:
        x, y = (float(number) for number in stated)
        if not all(math.isfinite(number) and MIN_IMAGE_DPI <= number <= MAX_DPI for number in (x, y)):
            raise ImageRefused("image_dpi", dpi=f"{x:g} × {y:g}" if x != y else f"{x:g}")
        inches = max(size[0] / x, size[1] / y)
        if max(x, y) > _SCREEN_DPI and inches > _MAX_INCHES:
            raise ImageRefused("image_dpi", dpi=f"{x:g}")
        if max(x, y) > _SCREEN_DPI or inches <= _SCREEN_INCHES:
            return x, y
    least, most = _ASSUMED_DPI
    assumed = min(max(least, longer / _ASSUMED_INCHES), most)
    return assumed, assumed


def _packed(image: Image.Image) -> bytes:
    """The picture without loss, in a file that goes into a PDF as it is.

    :raises ValueError: for pixels that are no picture of a page.
    """
    frame = image
    if frame.mode.startswith("I;16"):
        frame = Image.fromarray((np.asarray(frame).astype(np.uint16) >> 8).astype(np.uint8))
    elif frame.mode in ("YCbCr", "LAB", "HSV"):
        frame = frame.convert("RGB")
    elif frame.mode not in ("1", "L", "P", "RGB", "CMYK", "LA", "PA", "RGBA"):
        raise ValueError(f"pixels of kind {frame.mode}")
    target = io.BytesIO()
    if frame.mode == "1":
        whole = TiffImagePlugin.ImageFileDirectory_v2()
        whole[_ROWS_PER_STRIP] = frame.height
        frame.save(target, "TIFF", compression="group4", tiffinfo=whole)
    elif frame.mode == "CMYK":
        frame.save(target, "TIFF")
    else:
        # The grain of a scan has little that a longer search would find.
        frame.save(target, "PNG", compress_level=1)
    return target.getvalue()


def _one_page(content: bytes, dpi: tuple[float, float]) -> bytes:
    made = img2pdf.convert(
        content,
        layout_fun=img2pdf.get_fixed_dpi_layout_fun(dpi),
        rotation=img2pdf.Rotation.none,
        first_frame_only=True,
        nodate=True,
    )
    assert isinstance(made, bytes)
    return made


def _orientation(image: Image.Image) -> tuple[bool, int]:
    return _ORIENTATIONS.get(image.getexif().get(_ORIENTATION, 1), (False, 0))


def _turned(made: bytes, orientation: tuple[bool, int]) -> bytes:
    """A PDF of one page that shows it as its scanner or camera says that it lies; the image's data stay as they are."""
    mirrored, turned = orientation
    if not mirrored and not turned:
        return made
    with pikepdf.open(io.BytesIO(made)) as pdf:
        page = pdf.pages[0]
        if mirrored:
            page.contents_add(b"q -1 0 0 1 %.4f 0 cm" % float(page.mediabox[2]), prepend=True)
            page.contents_add(b"Q")
        if turned:
            page.rotate(turned, relative=True)
        target = io.BytesIO()
        pdf.save(target)
        return target.getvalue()


def _open_files(count: int) -> None:
    """Have this process open so many files at once, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
