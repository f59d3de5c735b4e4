"""The words of a page as PDF text operators, so that they lie on the ink and are read back line by line.

Words of one line share a baseline, a size and a slope: readers break the line wherever the baseline jumps, and the
boxes of "on" and "type" end at different heights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import linear_regression, median

from tasks.engines import Word
from tasks.pdf.glyphless import ADVANCE, encode

#: A line of fewer words has no slope of its own: one descender would tilt it. It takes the page's.
_WORDS_FOR_SLOPE = 5

_SPACE = encode(" ").hex()


@dataclass(frozen=True, slots=True)
class Line:
    """Words on one baseline. In pixels, y downwards: the baseline is at ``bottom + slope * x``."""

    words: Sequence[Word]
    slope: float
    bottom: float
    height: float


def fit_lines(words: Sequence[Word]) -> list[Line]:
    """The words, in their order, as lines."""
    runs = list(_runs(words))
    slopes = [_slope(run) for run in runs]
    page_slope = median([slope for slope in slopes if slope is not None] or [0.0])
    return [_fit(run, page_slope if slope is None else slope) for run, slope in zip(runs, slopes, strict=True)]


def text_operators(words: Sequence[Word]) -> Iterator[str]:
    """The content of a layer in upright pixels, y upwards from the upper edge (so all of it lies below zero).

    Its font is ``/F``, its rendering mode 3, invisible. It is most of what a searchable PDF grows by, so a line is
    placed once, and its words by their distance in it, in whole pixels. The space behind a word is as wide as its
    letters.
    """
    yield "BT 3 Tr"
    for line in fit_lines(words):
        size = max(1, round(line.height))
        angle = math.atan(-line.slope)
        cos, sin = math.cos(angle), math.sin(angle)
        before = line.words[0].x0
        y = -(line.bottom + line.slope * before)
        yield f"/F {size} Tf {cos:.5g} {sin:.4g} {-sin:.4g} {cos:.5g} {before} {y:.1f} Tm"
        for place, word in enumerate(line.words):
            codes = encode(word.text)
            stretch = _stretch((word.x1 - word.x0) / cos, len(codes) // 2, size)
            move = f"{(word.x0 - before) / cos:.0f} 0 Td " if place else ""
            space = _SPACE if place + 1 < len(line.words) else ""
            yield f"{move}{stretch:.3g} Tz <{codes.hex()}{space}> Tj"
            before = word.x0
    yield "ET"


def _stretch(length: float, characters: int, size: float) -> float:
    """The horizontal scaling, in percent, that makes so many characters this long."""
    return 100 * length / (characters * size * ADVANCE / 1000)


def _runs(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Words that share a baseline: those of a line, but each by itself where the print runs up or down the page."""
    for _, words_of_line in groupby((word for word in words if word.x1 > word.x0 and word.y1 > word.y0), _line_of):
        line = list(words_of_line)
        across = max(word.x1 for word in line) - min(word.x0 for word in line)
        down = max(word.y1 for word in line) - min(word.y0 for word in line)
        yield from [line] if across > down else ([word] for word in line)


def _line_of(word: Word) -> int:
    return word.line


def _slope(run: Sequence[Word]) -> float | None:
    if len(run) < _WORDS_FOR_SLOPE:
        return None
    slope, _ = linear_regression([_centre(word) for word in run], [word.y1 for word in run])
    return slope


def _fit(run: Sequence[Word], slope: float) -> Line:
    """Medians, so that a speck or an initial does not move the line."""
    bottom = median(word.y1 - slope * _centre(word) for word in run)
    top = median(word.y0 - slope * _centre(word) for word in run)
    return Line(run, slope, bottom, max(1.0, bottom - top))


def _centre(word: Word) -> float:
    return (word.x0 + word.x1) / 2
