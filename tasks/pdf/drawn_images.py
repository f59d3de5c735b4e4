"""The images that a page draws, in its forms too, with how much of the page each covers and whether it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pikepdf
from pikepdf import Name

from tasks.pdf.geometry import Matrix, compose
from tasks.pdf.layers import Layers

#: Forms in forms are followed so deep. Each form is looked into once: it may draw itself, or others by the million.
_DEPTH = 12
_IDENTITY: Matrix = (1, 0, 0, 1, 0, 0)


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """``stream`` is None for what is named and not there; ``area`` is in square units of the page."""

    stream: pikepdf.Stream | None
    area: float
    hidden: bool


def drawn_images(page: pikepdf.Page, layers: Layers) -> Iterator[DrawnImage]:
    """In the order in which they are drawn."""
    yield from _Walk(layers).inside(page, page.obj.get("/Resources"), _IDENTITY, hidden=False, depth=0)


class _Walk:
    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._seen: set[tuple[tuple[int, int], bool]] = set()

    def inside(
        self, content: pikepdf.Page | pikepdf.Stream, resources: object, matrix: Matrix, *, hidden: bool, depth: int
    ) -> Iterator[DrawnImage]:
        """The images of a content stream, ``matrix`` being the one that it begins with."""
        drawable, properties = _dictionary(resources, "/XObject"), _dictionary(resources, "/Properties")
        stack: list[Matrix] = []
        #: Of each open piece of marked content, whether it is hidden.
        marked: list[bool] = []
        for instruction in pikepdf.parse_content_stream(content, "q Q cm Do BMC BDC EMC"):
            operator, operands = str(instruction.operator), instruction.operands
            if operator == "q":
                stack.append(matrix)
            elif operator == "Q" and stack:
                matrix = stack.pop()
            elif operator == "cm" and len(operands) == len(_IDENTITY):
                matrix = compose(_matrix(operands), matrix)
            elif operator in ("BMC", "BDC"):
                optional = len(operands) > 1 and operands[0] == Name.OC
                group = properties.get(str(operands[1])) if optional and properties is not None else None
                marked.append(self._layers.hides(group))
            elif operator == "EMC" and marked:
                marked.pop()
            elif operator == "Do" and operands:
                found = drawable.get(str(operands[0])) if drawable is not None else None
                yield from self._drawn(found, resources, matrix, hidden=hidden or any(marked), depth=depth)

    def _drawn(
        self, found: object, resources: object, matrix: Matrix, *, hidden: bool, depth: int
    ) -> Iterator[DrawnImage]:
        if not isinstance(found, pikepdf.Stream):
            yield DrawnImage(None, 0.0, hidden)
            return
        hidden = hidden or self._layers.hides(found.get("/OC"))
        if found.get("/Subtype") == Name.Image:
            a, b, c, d, _, _ = matrix
            yield DrawnImage(found, abs(a * d - b * c), hidden)
        elif found.get("/Subtype") == Name.Form and depth < _DEPTH and (found.objgen, hidden) not in self._seen:
            self._seen.add((found.objgen, hidden))
            own = found.get("/Matrix")
            matrix = compose(_matrix(own), matrix) if isinstance(own, pikepdf.Array) and len(own) == 6 else matrix
            # A form without resources of its own uses those of what draws it.
            inner = found.get("/Resources", resources)
            yield from self.inside(found, inner, matrix, hidden=hidden, depth=depth + 1)


def _dictionary(resources: object, name: str) -> pikepdf.Dictionary | None:
    found = resources.get(name) if isinstance(resources, pikepdf.Dictionary) else None
    return found if isinstance(found, pikepdf.Dictionary) else None


def _matrix(numbers: object) -> Matrix:
    try:
        a, b, c, d, e, f = (float(number) for number in numbers)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return _IDENTITY
    return a, b, c, d, e, f
