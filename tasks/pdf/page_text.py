"""What text a page carries, what of it can be seen, and what else there is on the page to be read.

Text can be outside the page, clipped away, under an image, white on white, or on a layer that is switched off; rules
for all of that would never be complete. So the page is drawn twice, small, with its text and without: where the two
differ, text is seen.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium_c
from numpy.typing import NDArray

from tasks.pdf.geometry import Geometry, invert
from tasks.pdf.ink import Mask, ink_mask, look_scale
from tasks.pdf.own_words import OwnWord

#: A difference of gray, of 255, that is seen, also beside the grain of a scan. Text that is fainter is read, not kept.
_DIFFERS = 16
#: Forms in forms are followed so deep; a form may draw itself.
_DEPTH = 12
#: What is drawn of shapes with more segments than a box or a rule has may be letters, where there are so many of them.
_LETTER_SEGMENTS, _LETTER_SHAPES = 6, 20
#: An invisible layer is an earlier OCR of the page when so many of its characters lie on ink, or when so much of the
#: ink lies under it. A hidden number is none.
_LAYER_CHARACTERS, _LAYER_SHARE = 100, 0.5
#: OCR layers lie a little beside the ink: by so many heights of a character to the left, up, right and down.
_BESIDE = (-0.5, -0.25, 0.5, 0.25)
#: How much of the page's ink, at the least, is left where there is something else to read. An earlier OCR has passed
#: over pictures and dirt on purpose.
_REST_PIXELS, _REST_SHARE, _REST_SHARE_OF_LAYER = 30, 0.02, 0.3

#: What pdfium says of a glyph of which the file does not tell what it stands for.
_NO_UNICODE = "\0"
#: pdfium marks a hyphen at a line's end with one of these.
_HYPHENS = str.maketrans({"\ufffe": "-", "\x02": "-", "\r": None})


@dataclass(frozen=True, kw_only=True)
class PageText:
    """The text of a page in the light of a mode."""

    #: What stays, and counts as read.
    own_text: str
    own_words: Sequence[OwnWord]
    #: There is more on the page than this text; it is drawn without the text that counts.
    more_to_read: bool
    #: There is an invisible layer of an earlier OCR that is to be replaced.
    replaces_layer: bool


NO_TEXT = PageText(own_text="", own_words=(), more_to_read=True, replaces_layer=False)


@dataclass(frozen=True, slots=True)
class _Characters:
    """Of each character its text, its box on the bitmap in pixels, the address of its text object (0 for none), and
    whether that is set in rendering mode 3.
    """

    texts: Sequence[str]
    boxes: NDArray[np.float64]
    owners: Sequence[int]
    layer: Mask

    def words(self) -> Iterator[list[int]]:
        """The characters between white space, by index."""
        word: list[int] = []
        for index, character in enumerate([*self.texts, " "]):
            if not character.isspace():
                word.append(index)
            elif word:
                yield word
                word = []


def examine_text(page: pypdfium2.PdfPage, mode: str, geometry: Geometry, scale: float, dpi: float) -> PageText:
    """What to keep of a page's text and whether to read the rest. Leaves the text that counts inactive: not drawn.

    :param geometry: of the bitmap that the page will be rendered to.
    :param scale: the size in pixels of a unit of user space on it, and ``dpi`` its resolution.
    """
    characters = _characters(page, geometry)
    if not characters.texts:
        return NO_TEXT
    objects = list(_objects(page))
    scale *= look_scale(geometry.width, geometry.height, dpi)
    with_text = _drawn(page, scale)
    _show_text(objects, shown=False)
    without_text = _drawn(page, scale)
    shown = np.abs(with_text.astype(np.int16) - without_text) > _DIFFERS
    look = replace(geometry, width=with_text.shape[1], height=with_text.shape[0])
    boxes = characters.boxes * ([look.width / geometry.width, look.height / geometry.height] * 2)
    # What cannot be copied out of the file is no text, but shapes to be read.
    legible = np.array([text != _NO_UNICODE for text in characters.texts], bool)
    visible = _visible(characters, boxes, shown) & legible
    ink = ink_mask(without_text)
    layer = characters.layer & _within(boxes, look)
    is_layer = _is_layer(boxes[layer], ink)
    counts = {"skip": visible | layer if is_layer else visible, "redo": visible, "force": np.zeros_like(visible)}[mode]
    # What does not count may be seen all the same, be it faintly: then it is read.
    _show_text(objects, shown=True, but={characters.owners[index] for index in np.flatnonzero(counts).tolist()})
    if mode == "force":
        more = True
    else:
        left = ink & ~_covered(boxes[counts & characters.layer], ink.shape) & ~_widened(shown)
        share = _REST_SHARE_OF_LAYER if mode == "skip" and is_layer else _REST_SHARE
        enough = max(_REST_PIXELS, share * int(np.count_nonzero(ink | shown)))
        more = not counts.any() or (int(np.count_nonzero(left)) >= enough and _may_be_print(objects))
    return PageText(
        own_text=_text(characters.texts, counts),
        own_words=tuple(_words(characters, counts, without_layer=mode != "skip")),
        more_to_read=more,
        replaces_layer=mode != "skip" and bool(characters.layer.any()),
    )


def _objects(page: pypdfium2.PdfPage) -> Iterator[tuple[int, Any]]:
    """Kind and handle of all that the page draws, in its forms too."""

    def inside(count: Any, get: Any, container: Any, depth: int) -> Iterator[tuple[int, Any]]:
        for index in range(count(container)):
            item = get(container, index)
            kind = pdfium_c.FPDFPageObj_GetType(item)
            yield kind, item
            if kind == pdfium_c.FPDF_PAGEOBJ_FORM and depth < _DEPTH:
                yield from inside(pdfium_c.FPDFFormObj_CountObjects, pdfium_c.FPDFFormObj_GetObject, item, depth + 1)

    yield from inside(pdfium_c.FPDFPage_CountObjects, pdfium_c.FPDFPage_GetObject, page.raw, 0)


def _show_text(objects: Sequence[tuple[int, Any]], *, shown: bool, but: Set[int] = frozenset()) -> None:
    for kind, item in objects:
        if kind == pdfium_c.FPDF_PAGEOBJ_TEXT and _address(item) not in but:
            pdfium_c.FPDFPageObj_SetIsActive(item, shown)


def _address(item: Any) -> int:
    return ctypes.cast(item, ctypes.c_void_p).value or 0


def _visible(characters: _Characters, boxes: NDArray[np.float64], shown: Mask) -> Mask:
    """Which characters can be seen: all of a word, or none."""
    seen = np.array([bool(shown[_slices(box)].any()) for box in boxes], bool)
    visible = np.zeros_like(seen)
    for word in characters.words():
        visible[word] = np.count_nonzero(seen[word]) * 2 >= len(word)
    return visible


def _drawn(page: pypdfium2.PdfPage, scale: float) -> NDArray[np.uint8]:
    bitmap = page.render(scale=scale, grayscale=True)
    return np.array(bitmap.to_pil())


def _characters(page: pypdfium2.PdfPage, geometry: Geometry) -> _Characters:
    text = page.get_textpage()
    count = text.count_chars()
    modes: dict[int, bool] = {}
    texts, owners, boxes, layer = [], [], np.zeros((count, 4)), np.zeros(count, bool)
    rectangle = pdfium_c.FS_RECTF()
    for index in range(count):
        texts.append(chr(pdfium_c.FPDFText_GetUnicode(text.raw, index)))
        pdfium_c.FPDFText_GetLooseCharBox(text.raw, index, ctypes.byref(rectangle))
        boxes[index] = rectangle.left, rectangle.bottom, rectangle.right, rectangle.top
        owner = pdfium_c.FPDFText_GetTextObject(text.raw, index)
        address = _address(owner)
        owners.append(address)
        if address not in modes:
            mode = pdfium_c.FPDFTextObj_GetTextRenderMode(owner) if owner else None
            modes[address] = mode == pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE
        layer[index] = modes[address]
    return _Characters(texts, _on_bitmap(boxes, geometry), owners, layer)


def _on_bitmap(boxes: NDArray[np.float64], geometry: Geometry) -> NDArray[np.float64]:
    """Boxes in user space as boxes in pixels; each is upright in both."""
    a, b, c, d, e, f = invert(replace(geometry, orientation=0, skew=0).upright_to_user_space)
    corners = [
        (a * boxes[:, n] + c * boxes[:, m] + e, b * boxes[:, n] + d * boxes[:, m] + f) for n, m in ((0, 1), (2, 3))
    ]
    (x0, y0), (x1, y1) = corners
    return np.column_stack([np.minimum(x0, x1), np.minimum(y0, y1), np.maximum(x0, x1), np.maximum(y0, y1)])


def _slices(box: NDArray[np.float64]) -> tuple[slice, slice]:
    """The pixels that a box touches; none where it lies outside."""
    x0, y0, x1, y1 = np.clip(box, -1e6, 1e6)
    return slice(max(0, int(y0)), max(0, int(np.ceil(y1)))), slice(max(0, int(x0)), max(0, int(np.ceil(x1))))


def _within(boxes: NDArray[np.float64], look: Geometry) -> Mask:
    """Which boxes lie on the page, by their centres."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    mask: Mask = (x >= 0) & (x < look.width) & (y >= 0) & (y < look.height)
    return mask


def _covered(boxes: NDArray[np.float64], shape: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, bool)
    for box in boxes:
        height = box[3] - box[1]
        mask[_slices(box + np.multiply(height, _BESIDE))] = True
    return mask


def _is_layer(boxes: NDArray[np.float64], ink: Mask) -> bool:
    """Whether invisible text is an earlier OCR: it lies where the ink is."""
    if not len(boxes):
        return False
    if sum(bool(ink[_slices(box)].any()) for box in boxes) >= _LAYER_CHARACTERS:
        return True
    return int(np.count_nonzero(ink & _covered(boxes, ink.shape))) >= _LAYER_SHARE * int(np.count_nonzero(ink))


def _widened(mask: Mask) -> Mask:
    """A pixel more on each side: text has soft edges."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    wide = np.zeros_like(mask)
    for down in range(3):
        for across in range(3):
            wide |= padded[down : down + height, across : across + width]
    return wide


def _may_be_print(objects: Sequence[tuple[int, Any]]) -> bool:
    """Whether a page draws what may say something beside its text: an image, or shapes that may be letters."""
    if any(kind == pdfium_c.FPDF_PAGEOBJ_IMAGE for kind, _ in objects):
        return True
    shapes = (item for kind, item in objects if kind == pdfium_c.FPDF_PAGEOBJ_PATH)
    return sum(bool(pdfium_c.FPDFPath_CountSegments(item) > _LETTER_SEGMENTS) for item in shapes) >= _LETTER_SHAPES


def _text(texts: Sequence[str], counts: Mask) -> str:
    """The characters that count; white space goes with what stands before it."""
    kept, before = [], False
    for text, counted in zip(texts, counts.tolist(), strict=True):
        before = before if text.isspace() else counted
        if before:
            kept.append(text)
    return "".join(kept).translate(_HYPHENS).encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()


def _words(characters: _Characters, counts: Mask, *, without_layer: bool) -> Iterator[OwnWord]:
    """What stays in the file, as words."""
    for word in characters.words():
        layer = bool(characters.layer[word].all())
        if not (layer and without_layer):
            boxes = characters.boxes[word]
            box = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
            text = "".join(characters.texts[index] for index in word)
            yield OwnWord(text, box, bool(counts[word].any()), layer)
