"""Which way the print of a page runs, and how crooked it is: from the ink alone, before anything is read.

Lines of print make the sum of ink along each row jump between lines and gaps. The slope at which it jumps most is the
print's (W. Postl, "Detection of linear oblique structures and skew scan in digitized documents", ICPR 1986).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.pdf.ink import Mask

#: Degrees. A page that lies more crooked than this was not scanned, but photographed.
_MAX_SKEW = 15
_COARSE, _FINE = 1.0, 0.1
#: Pixels of ink that are looked at; more do not change the answer.
_PIXELS = 15_000
#: Fewer say nothing.
_LEAST_PIXELS = 200
#: How much sharper lines must be along a slope than along the edge of the paper, for the slope to count.
_SHARPER = 1.15
#: How much sharper lines must run down the page than across, for the page to lie on its side.
_SIDEWAYS = 1.2
#: From which difference on the other way is out of the question.
_SURE = 1.5


@dataclass(frozen=True, slots=True)
class Direction:
    """``sideways``: lines run down or up the page. ``skew``: how far they are turned clockwise from there, in degrees.
    ``sure``: the other way is out of the question.
    """

    sideways: bool
    skew: float
    sure: bool


def find_direction(ink: Mask) -> Direction:
    """The direction of the lines on a page. A page without lines has none: it counts as upright."""
    y, x = np.nonzero(_edges(ink))
    if len(y) < _LEAST_PIXELS:
        return Direction(False, 0.0, False)
    if len(y) > _PIXELS:
        # Always the same ones: a page that is read again gives the same words.
        chosen = np.random.default_rng(0).choice(len(y), _PIXELS, replace=False)
        y, x = y[chosen], x[chosen]
    across, skew_across = _sharpest(x, y)
    down, skew_down = _sharpest(y, -x)
    sideways = down > _SIDEWAYS * across
    return Direction(sideways, skew_down if sideways else skew_across, max(across, down) > _SURE * min(across, down))


def _edges(ink: Mask) -> Mask:
    """The ink that has paper beside it: all of a letter, and of a picture its outline only."""
    padded = np.pad(ink, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edges: Mask = ink & ~inside
    return edges


def _sharpest(x: NDArray[np.int64], y: NDArray[np.int64]) -> tuple[float, float]:
    """How sharp the lines are, and at which slope: degrees clockwise from the x axis, y downwards."""
    straight = _sharpness(x, y, 0.0)
    coarse = [(_sharpness(x, y, angle), angle) for angle in np.arange(-_MAX_SKEW, _MAX_SKEW + _COARSE, _COARSE)]
    _, near = max(coarse)
    fine = [(_sharpness(x, y, angle), angle) for angle in np.arange(near - _COARSE, near + _COARSE, _FINE)]
    sharpness, angle = max(fine)
    return (sharpness, round(float(angle), 1)) if sharpness > _SHARPER * straight else (straight, 0.0)


def _sharpness(x: NDArray[np.int64], y: NDArray[np.int64], angle: float) -> float:
    rows = y - x * np.tan(np.radians(angle))
    steps = np.diff(np.bincount((rows - rows.min()).astype(np.int64)))
    return float(np.dot(steps, steps))
