"""What is wrong with a page's images? Renderers leave out an image that they cannot decode, or the rest of one that
ends too early, and say nothing.

Runs in the renderer's child: the images that it decodes are as hostile as the rest of the file.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import pikepdf
from PIL import Image

from tasks.pdf import jbig2
from tasks.pdf.content_faults import contents_broken
from tasks.pdf.drawn_images import drawn_images
from tasks.pdf.layers import Layers

#: Raised for images that may be sound, but that pikepdf has no decoder or no colours for.
_CANNOT_TELL = (
    pikepdf.DependencyError,
    pikepdf.NotExtractableError,
    pikepdf.UnsupportedImageTypeError,
    NotImplementedError,
)

# The scan of a plan has more pixels than Pillow likes. What is too much is for this process's memory limit to say.
Image.MAX_IMAGE_PIXELS = None


class ImageTooLarge(Exception):
    """There is not enough memory to decode the image."""


def find_fault(path: Path, index: int, *, thorough: bool) -> str | None:
    """The first thing wrong with what page ``index`` (from 0) draws, a key of ``REASONS``; None where all is well.

    :param thorough: decode every image. Else only those whose data looks too short, which costs a few milliseconds.
    """
    page = opened(path).pages[index]
    if contents_broken(page, thorough=thorough):
        return "content_broken"
    for image in drawn_images(page, Layers(opened(path))):
        if image.hidden:
            if image.area >= _SCAN_SHARE * _area(page):
                return "hidden_layer"
            continue
        if image.stream is None:
            return "image_missing"
        fault = _fault(image.stream, thorough=thorough)
        if fault is not None:
            return fault
    return None


def _fault(image: pikepdf.Stream, *, thorough: bool) -> str | None:
    if thorough and _filters(image)[-1] not in _END_MARKS and _expected_or_zero(image) > _MOST_BYTES:
        return "image_too_large"
    short = _looks_short(image)
    if not (thorough or short):
        return None
    try:
        whole = _decodes(image, short=short)
    except ImageTooLarge:
        return "image_too_large"
    if whole:
        return None
    return "image_incomplete" if short and _begins(image) else "image_undecodable"


def _area(page: pikepdf.Page) -> float:
    x0, y0, x1, y1 = (float(number) for number in page.cropbox)
    return abs((x1 - x0) * (y1 - y0))


@lru_cache(maxsize=1)
def opened(path: Path) -> pikepdf.Pdf:
    """The document, which is kept: a child looks at one, page after page."""
    return pikepdf.open(path)


def _expected_or_zero(image: pikepdf.Stream) -> int:
    try:
        return _expected_bytes(image)
    except (LookupError, TypeError, ValueError):
        return 0


def _filters(image: pikepdf.Stream) -> list[str]:
    """The names of its filters, in the order in which they are undone; [""] where it has none."""
    filters = image.get("/Filter")
    return [str(each) for each in filters] if isinstance(filters, pikepdf.Array) else [str(filters or "")]


def _encoded(image: pikepdf.Stream) -> bytes:
    """The data as its last filter takes it: what is before that, such as a second compression, is undone."""
    filters = _filters(image)
    if len(filters) == 1:
        return bytes(image.read_raw_bytes())
    parameters = image.get("/DecodeParms")
    with pikepdf.new() as scratch:
        outer = scratch.make_stream(image.read_raw_bytes())
        outer.Filter = pikepdf.Array([pikepdf.Name(name) for name in filters[:-1]])
        if isinstance(parameters, pikepdf.Array):
            known = [dict(each.items()) if isinstance(each, pikepdf.Dictionary) else {} for each in parameters]
            outer.DecodeParms = pikepdf.Array([pikepdf.Dictionary(each) for each in known[:-1]])
        return bytes(outer.read_bytes(pikepdf.StreamDecodeLevel.specialized))


def _looks_short(image: pikepdf.Stream) -> bool:
    """Whether an image's data does not end as data of its kind does, or has fewer rows than it should."""
    name = _filters(image)[-1]
    try:
        if name == "/JBIG2Decode":
            return not jbig2.is_whole(_encoded(image))
        mark = _END_MARKS.get(name)
        if mark is None:
            return len(image.read_bytes()) < _expected_bytes(image)
        tail = _encoded(image)[-_TAIL:]
        # Fax data has bits, not bytes: its mark stands at any of eight offsets.
        return f"{mark:b}" not in f"{int.from_bytes(tail):b}" if mark == _EOFB else mark.to_bytes(2) not in tail
    except pikepdf.PdfError:
        # A filter that cannot be undone; or one that qpdf has no decoder for, which is no sign of anything.
        return name in _UNDONE_BY_QPDF or len(_filters(image)) > 1
    except (*_CANNOT_TELL, LookupError, TypeError, ValueError):
        # Entries that are not what they should be say nothing about the data.
        return False


def _begins(image: pikepdf.Stream) -> bool:
    """Whether an image's data begins as data of its kind does: the rest of it may be lost."""
    magic = _BEGINNINGS.get(_filters(image)[-1])
    try:
        return magic is None or any(each in _encoded(image)[:16] for each in magic)
    except pikepdf.PdfError:
        return False


#: JPEG 2000 is a bare codestream, or in a file of boxes.
_BEGINNINGS: Mapping[str, tuple[bytes, ...]] = MappingProxyType(
    {"/DCTDecode": (b"\xff\xd8",), "/JPXDecode": (b"\xff\x4f", b"jP")}
)
#: Two end-of-line codes end a fax image.
_EOFB = 0b1_000000000001
#: How whole data ends, by its filter. Some programs write others behind them, or leave them out: an image
#: without them is decoded, to see.
_END_MARKS: Mapping[str, int] = MappingProxyType({"/DCTDecode": 0xFFD9, "/JPXDecode": 0xFFD9, "/CCITTFaxDecode": _EOFB})
_TAIL = 64
#: pikepdf decodes these by themselves only, not behind another filter.
_READ_BY_PILLOW = frozenset({"/DCTDecode", "/JPXDecode"})
#: What an image may take once it is unpacked; qpdf calls a larger one broken, for want of memory.
_MOST_BYTES = 1 << 29
#: An image that covers so much of the page is a scan of it, not an ornament.
_SCAN_SHARE = 0.25
_UNDONE_BY_QPDF = frozenset({"/FlateDecode", "/LZWDecode", "/RunLengthDecode", "/ASCII85Decode", "/ASCIIHexDecode"})
#: Components by device colour space; of another one nothing is expected.
_COMPONENTS = {"/DeviceGray": 1, "/CalGray": 1, "/DeviceRGB": 3, "/CalRGB": 3, "/DeviceCMYK": 4, "/Indexed": 1}


def _expected_bytes(image: pikepdf.Stream) -> int:
    """How much data an image of this size has once its filters are undone; 0 where that is not known."""
    space = image.get("/ColorSpace")
    if isinstance(space, pikepdf.Array) and len(space):
        if str(space[0]) == "/ICCBased" and isinstance(space[1], pikepdf.Stream):
            components = int(space[1].get("/N", 0))
        else:
            components = _COMPONENTS.get(str(space[0]), 0)
    else:
        components = 1 if image.get("/ImageMask", False) else _COMPONENTS.get(str(space), 0)
    bits = 1 if image.get("/ImageMask", False) else int(image.get("/BitsPerComponent", 0))
    row = (int(image.get("/Width", 0)) * components * bits + 7) // 8
    return row * int(image.get("/Height", 0))


def _decodes(image: pikepdf.Stream, *, short: bool) -> bool:
    """Whether all of an image can be decoded, as far as that can be known.

    :raises ImageTooLarge: where that takes too much memory.
    """
    name = _filters(image)[-1]
    if name == "/JBIG2Decode":
        # pikepdf has no decoder for it; what its segments say has to do.
        return not short
    with _complaints() as complaints:
        try:
            if name in _READ_BY_PILLOW and len(_filters(image)) > 1:
                Image.open(io.BytesIO(_encoded(image))).load()
            else:
                pikepdf.PdfImage(image).as_pil_image().load()
        except _CANNOT_TELL:
            return True
        except MemoryError:
            raise ImageTooLarge from None
        except Exception:  # every codec has its own
            return False
        return not complaints()


@contextmanager
def _complaints() -> Iterator[Callable[[], bool]]:
    """Whether anything was written to stderr: libtiff, which decodes fax images, reports broken lines only there."""
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            yield lambda: os.fstat(file.fileno()).st_size > 0
    finally:
        os.dup2(kept, 2)
        os.close(kept)
