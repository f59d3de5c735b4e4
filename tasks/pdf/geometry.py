"""The measures of a page: how many pixels it gets, and where display space lies in the page's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Pixels of a rendered page. A0 still gets 190 dpi.
MAX_PIXELS = 60_000_000
#: Tesseract refuses sides of 32,768 pixels and more.
MAX_SIDE = 30_000
#: Below this no print can be read; a page that would need it is refused.
MIN_DPI = 30.0

Matrix = tuple[float, float, float, float, float, float]


def fitting_dpi(width: float, height: float, dpi: float) -> float | None:
    """The resolution to render a page of ``width`` by ``height`` points at: ``dpi``, or less for a huge page.

    None where the page is too large to be read at all.
    """
    if width <= 0 or height <= 0:
        return dpi
    fit = min(dpi, math.sqrt(MAX_PIXELS / (width * height)) * 72, MAX_SIDE / max(width, height) * 72)
    return fit if fit >= MIN_DPI or fit == dpi else None


@dataclass(frozen=True, slots=True)
class Geometry:
    """A rendered page. ``box`` is its visible part in user space (x0, y0, x1, y1, points), as the renderer saw it;
    ``rotation`` turns it clockwise for display (0, 90, 180, 270); ``width`` by ``height`` are the bitmap's pixels.
    """

    box: tuple[float, float, float, float]
    rotation: int
    width: int
    height: int

    @property
    def display_size(self) -> tuple[float, float]:
        """Width and height of the page as displayed, in user space units."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0, y1 - y0) if self.rotation % 180 == 0 else (y1 - y0, x1 - x0)

    @property
    def to_user_space(self) -> Matrix:
        """Display space (origin at the lower left of what is seen, y upwards) to user space, as a PDF matrix."""
        x0, y0, x1, y1 = self.box
        return {
            0: (1, 0, 0, 1, x0, y0),
            90: (0, 1, -1, 0, x1, y0),
            180: (-1, 0, 0, -1, x1, y1),
            270: (0, -1, 1, 0, x0, y1),
        }[self.rotation]
