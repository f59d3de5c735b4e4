"""A page as it has to be held to be read: turned by quarters, and straightened. The page itself is not changed."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from tasks.pdf.geometry import Geometry
from tasks.pdf.ink import Mask
from tasks.pdf.print_direction import find_direction
from tasks.pdf.turning import straighten, turn
from tasks.pdf.upside_down import upside_down

#: Degrees up to which engines follow crooked lines as well as straight ones; turning the page would only blur it.
_HARMLESS_SKEW = 0.9


def make_upright(page: Image.Image, ink: Mask, geometry: Geometry, dpi: float) -> tuple[Image.Image, Geometry, bool]:
    """The page to be read, the geometry with its ``orientation`` and ``skew``, and whether the axis is beyond doubt."""
    direction = find_direction(ink)
    skew = direction.skew if abs(direction.skew) > _HARMLESS_SKEW else 0.0
    geometry = replace(geometry, orientation=90 if direction.sideways else 0, skew=skew)
    page = straighten(turn(page, geometry.orientation), geometry)
    if upside_down(page, dpi):
        page, geometry = turn(page, 180), replace(geometry, orientation=geometry.orientation + 180)
    return page, geometry, direction.sure
