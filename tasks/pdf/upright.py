"""A page as it has to be held to be read: turned by quarters, and straightened. The page itself is not changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from tasks.pdf.geometry import Geometry, invert
from tasks.pdf.ink import Mask, ink_mask, look
from tasks.pdf.print_direction import find_direction
from tasks.pdf.turning import straighten, turn
from tasks.pdf.upside_down import upside_down

#: Degrees up to which engines follow crooked lines as well as straight ones; turning the page would only blur it.
_HARMLESS_SKEW = 0.9
#: Around the ink of a crooked page so much is straightened with it.
_MARGIN_INCHES = 0.25


def make_upright(page: Image.Image, ink: Mask, geometry: Geometry, dpi: float) -> tuple[Image.Image, Geometry, bool]:
    """The page to be read, the geometry with its ``orientation`` and ``skew``, and whether the axis is beyond doubt."""
    direction = find_direction(ink)
    skew = direction.skew if abs(direction.skew) > _HARMLESS_SKEW else 0.0
    geometry = replace(geometry, orientation=90 if direction.sideways else 0, skew=skew)
    page, ink = turn(page, geometry.orientation), np.rot90(ink, geometry.orientation // 90)
    if skew:
        page = straighten(page, geometry, _part_with_ink(ink, geometry, dpi))
        ink = ink_mask(look(page, dpi))
    if upside_down(page, ink):
        page, geometry = turn(page, 180), replace(geometry, orientation=geometry.orientation + 180)
    return page, geometry, direction.sure


def _part_with_ink(ink: Mask, geometry: Geometry, dpi: float) -> tuple[int, int, int, int]:
    """A box of upright pixels with all of the ink of a page that is turned, but not straightened."""
    y, x = np.nonzero(ink)
    scale = geometry.turned_size[0] / ink.shape[1]
    a, b, c, d, e, f = invert(geometry.straightening)
    xs, ys = (a * x + c * y) * scale + e, (b * x + d * y) * scale + f
    margin, (width, height) = _MARGIN_INCHES * dpi, geometry.upright_size
    return (
        max(0, round(xs.min() - margin)),
        max(0, round(ys.min() - margin)),
        min(width, round(xs.max() + margin)),
        min(height, round(ys.max() + margin)),
    )
