"""Where a page has ink: measured against its own paper and its own grain, so that faint print counts and dust does not.

A fixed difference of gray loses pencil and faded ribbons on clean paper, and finds ink everywhere on a grainy scan.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Gray: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]

#: A page is looked at with about this resolution: a full stop is still a pixel.
LOOK_DPI = 75
#: What is looked at takes some fifty bytes a pixel for a moment.
_MOST_PIXELS = 4_000_000
#: The least difference from the paper, of 255, that an eye sees; JPEG's own noise on white paper stays below.
_LEAST_CONTRAST = 6
#: How many times the paper's grain (its standard deviation) ink differs from it.
_GRAIN_FACTOR = 5
#: A difference from the paper that is ink on any page: one full of fine print seems to have a coarse grain.
_MOST_CONTRAST = 64
#: The paper is taken square by square of so many pixels, because light falls unevenly on it.
_SQUARE = 64
#: From the middle half of a normal distribution to its standard deviation.
_QUARTILES_TO_DEVIATION = 1.349
#: Pixels of ink from which on a page is not blank: a letter has more, a few specks of dust have less.
_LEAST_PIXELS = 4


def look(image: Image.Image, dpi: float) -> Gray:
    """A small copy of a page in gray, of about ``LOOK_DPI``; a plan of several metres gets less."""
    return np.asarray(image.reduce(max(1, round(1 / look_scale(image.width, image.height, dpi)))))


def look_scale(width: int, height: int, dpi: float) -> float:
    """The size of the small copy, over that of a bitmap of ``width`` by ``height`` pixels."""
    return min(1.0, LOOK_DPI / dpi, math.sqrt(_MOST_PIXELS / (width * height)))


def ink_mask(gray: Gray) -> Mask:
    """True where there is ink. Paper is what most of a square is, so white on black counts too."""
    height, width = gray.shape
    down, across = -(-height // _SQUARE), -(-width // _SQUARE)
    padded = np.pad(gray, ((0, down * _SQUARE - height), (0, across * _SQUARE - width)), mode="edge")
    squares = padded.reshape(down, _SQUARE, across, _SQUARE).swapaxes(1, 2).reshape(down, across, -1)
    low, paper, high = np.percentile(squares, (25, 50, 75), axis=2)
    # The grain of the page, not of the square: one full of print has none of its own.
    grain = float(np.median(high - low)) / _QUARTILES_TO_DEVIATION
    contrast = min(max(_LEAST_CONTRAST, _GRAIN_FACTOR * grain), _MOST_CONTRAST)
    # A square that is full of ink takes its paper from its neighbours.
    around = np.lib.stride_tricks.sliding_window_view(np.pad(paper, 1, mode="edge"), (3, 3))
    paper = np.median(around, axis=(2, 3))
    ground = paper.repeat(_SQUARE, axis=0).repeat(_SQUARE, axis=1)[:height, :width]
    mask: Mask = np.abs(gray - ground) > contrast
    return mask


def has_ink(mask: Mask) -> bool:
    """Whether there may be something to read."""
    return int(np.count_nonzero(mask)) >= _LEAST_PIXELS
