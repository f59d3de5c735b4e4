"""Pages turned by quarters, and straightened, as their geometry says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from PIL import Image

from tasks.pdf.geometry import Geometry, compose

_PAPER = 255

#: Undoes an orientation, which counts clockwise.
_UNDO: Mapping[int, Image.Transpose] = MappingProxyType(
    {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
)


def turn(page: Image.Image, orientation: int) -> Image.Image:
    """Undo an orientation."""
    return page.transpose(_UNDO[orientation]) if orientation else page


def straighten(page: Image.Image, geometry: Geometry, part: tuple[int, int, int, int] | None = None) -> Image.Image:
    """Undo the skew of a page whose orientation is undone already.

    :param part: the box of upright pixels that has ink; nothing else is drawn. All of the page unless given.
    """
    if not geometry.skew:
        return page
    left, top, right, bottom = part or (0, 0, *geometry.upright_size)
    # Pillow maps the pixels of the result to those of the page, and wants the matrix by rows.
    a, b, c, d, e, f = compose((1, 0, 0, 1, left, top), geometry.straightening)
    straight = page.transform(
        (right - left, bottom - top),
        Image.Transform.AFFINE,
        (a, c, e, b, d, f),
        resample=Image.Resampling.BILINEAR,
        fillcolor=_PAPER,
    )
    upright = Image.new("L", geometry.upright_size, _PAPER)
    upright.paste(straight, (left, top))
    return upright
