"""Pages turned by quarters, and straightened, as their geometry says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from PIL import Image

from tasks.pdf.geometry import Geometry

_PAPER = 255

#: Undoes an orientation, which counts clockwise.
_UNDO: Mapping[int, Image.Transpose] = MappingProxyType(
    {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
)


def turn(page: Image.Image, orientation: int) -> Image.Image:
    """Undo an orientation."""
    return page.transpose(_UNDO[orientation]) if orientation else page


def straighten(page: Image.Image, geometry: Geometry) -> Image.Image:
    """Undo the skew of a page whose orientation is undone already."""
    if not geometry.skew:
        return page
    a, b, c, d, e, f = geometry.straightening
    # Pillow wants the matrix by rows.
    rows = (a, c, e, b, d, f)
    size, method = geometry.upright_size, Image.Transform.AFFINE
    return page.transform(size, method, rows, resample=Image.Resampling.BILINEAR, fillcolor=_PAPER)
