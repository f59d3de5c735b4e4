"""The measures of a page: how many pixels it gets, and how its spaces lie in each other.

User space is the PDF's own; display space is the page as a viewer shows it; the bitmap's pixels count from its upper
left corner; the upright pixels are those of the bitmap turned and straightened so that its print can be read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Pixels of a rendered page. A0 still gets 190 dpi.
MAX_PIXELS = 60_000_000
#: Tesseract refuses sides of 32,768 pixels and more.
MAX_SIDE = 30_000
#: Below this no print can be read; a page that would need it is refused.
MIN_DPI = 30.0

#: ``(a, b, c, d, e, f)`` maps ``(x, y)`` to ``(ax + cy + e, bx + dy + f)``, as in a PDF.
Matrix = tuple[float, float, float, float, float, float]


def compose(first: Matrix, then: Matrix) -> Matrix:
    """One matrix that does what ``first`` and ``then`` do after each other."""
    a, b, c, d, e, f = first
    g, h, i, j, k, m = then
    return (a * g + b * i, a * h + b * j, c * g + d * i, c * h + d * j, e * g + f * i + k, e * h + f * j + m)


def invert(matrix: Matrix) -> Matrix:
    """The matrix that undoes this one."""
    a, b, c, d, e, f = matrix
    size = a * d - b * c
    return (d / size, -b / size, -c / size, a / size, (c * f - d * e) / size, (b * e - a * f) / size)


def apply(matrix: Matrix, x: float, y: float) -> tuple[float, float]:
    """Where the matrix maps a point."""
    a, b, c, d, e, f = matrix
    return a * x + c * y + e, b * x + d * y + f


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
    On it the print is turned clockwise by ``orientation`` (0, 90, 180, 270) and then by ``skew``, both in degrees.
    """

    box: tuple[float, float, float, float]
    rotation: int
    width: int
    height: int
    orientation: int = 0
    skew: float = 0.0

    @property
    def display_size(self) -> tuple[float, float]:
        """Width and height of the page as displayed, in user space units."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0, y1 - y0) if self.rotation % 180 == 0 else (y1 - y0, x1 - x0)

    @property
    def turned_size(self) -> tuple[int, int]:
        """Width and height of the bitmap once ``orientation`` is undone."""
        return (self.width, self.height) if self.orientation % 180 == 0 else (self.height, self.width)

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the upright bitmap: all of the page fits into it."""
        width, height = self.turned_size
        cos, sin = math.cos(math.radians(self.skew)), abs(math.sin(math.radians(self.skew)))
        return math.ceil(width * cos + height * sin - 1e-6), math.ceil(width * sin + height * cos - 1e-6)

    @property
    def straightening(self) -> Matrix:
        """Upright pixels to those of the bitmap that is turned, but not straightened: a turn about the centre."""
        (width, height), (upright_width, upright_height) = self.turned_size, self.upright_size
        cos, sin = math.cos(math.radians(self.skew)), math.sin(math.radians(self.skew))
        to_centre: Matrix = (1, 0, 0, 1, -upright_width / 2, -upright_height / 2)
        return compose(to_centre, (cos, sin, -sin, cos, width / 2, height / 2))

    @property
    def upright_to_bitmap(self) -> Matrix:
        """Upright pixels to the bitmap's."""
        turn: Matrix = {
            0: (1, 0, 0, 1, 0, 0),
            90: (0, 1, -1, 0, self.width, 0),
            180: (-1, 0, 0, -1, self.width, self.height),
            270: (0, -1, 1, 0, 0, self.height),
        }[self.orientation]
        return compose(self.straightening, turn)

    @property
    def upright_to_user_space(self) -> Matrix:
        """Upright pixels to user space, as a PDF matrix."""
        width, height = self.display_size
        to_display: Matrix = (width / self.width, 0, 0, -height / self.height, 0, height)
        return compose(compose(self.upright_to_bitmap, to_display), self.to_user_space)

    def box_on_bitmap(self, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
        """The smallest upright box on the bitmap around a box in upright pixels."""
        corners = [apply(self.upright_to_bitmap, x, y) for x in (x0, x1) for y in (y0, y1)]
        xs, ys = zip(*corners, strict=True)
        return (
            max(0, math.floor(min(xs) + 1e-6)),
            max(0, math.floor(min(ys) + 1e-6)),
            min(self.width, math.ceil(max(xs) - 1e-6)),
            min(self.height, math.ceil(max(ys) - 1e-6)),
        )

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
