"""PP-OCRv6 in this process, by onnxruntime: one network finds the lines, another reads each. One thread, no OpenCV.

Pages are upright and straight when they come here, so a line is a box that is cut out. PaddlePaddle's own code fits
turned boxes around lines; what it does with the networks' answers otherwise is done here as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from tasks.engines import Bitmap, EngineUnavailable, OcrEngine, RecognitionFailed, RecognitionTimeout, Word
from tasks.engines.paddle_models import PaddleUnavailable, find_models

_MIN_SIDE = 10
#: Pixels of the longer side of the page in which lines are looked for: of an A4 page, four for a point. More finds no
#: more, and takes memory.
_LOOK_SIDE = 960
#: The network's sides are multiples of this.
_STEP = 32
#: A pixel is in a line from this probability on, and a line is one from this mean on.
_PIXEL, _LINE = 0.3, 0.5
#: The network marks the core of a line; by this share of its area to its circumference the line is larger.
_GROWTH = 1.6
_LEAST_SIDE = 3
#: The height that lines are read in, and the most and least width, in pixels.
_HEIGHT, _MOST_WIDTH, _LEAST_WIDTH = 48, 3200, 320
#: A line that is so much of the print's width stands across columns.
_ACROSS = 0.6
#: A column has so many lines, whose median is so much of the print's width: the prices of a receipt are none.
_COLUMN_LINES, _COLUMN_WIDTH = 4, 0.2

Gray = NDArray[np.uint8]


class Box(NamedTuple):
    """In pixels, x1 and y1 exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True, slots=True)
class _Character:
    """What a step of the network says. ``at`` counts steps, each of a few pixels."""

    text: str
    at: int
    probability: float


class PaddleEngine:
    """Gives up between two lines when its time is over: a line takes a tenth of a second."""

    def __init__(self, language: str) -> None:
        try:
            models = find_models(language)
            self._detection = _session(models.detection)
            self._recognition = _session(models.recognition)
        except PaddleUnavailable as error:
            raise EngineUnavailable(str(error)) from error
        known = self._recognition.get_modelmeta().custom_metadata_map["character"].splitlines()
        #: The first stands for nothing, the last for a space.
        self._characters = ["", *known, " "]

    def recognise(self, bitmap: Bitmap, *, timeout_s: float) -> list[Word]:
        """See :class:`~tasks.engines.OcrEngine`."""
        deadline = time.monotonic() + timeout_s
        if min(bitmap.width, bitmap.height) < _MIN_SIDE:
            return []
        pixels = np.frombuffer(bitmap.pixels, np.uint8)[: bitmap.height * bitmap.stride]
        gray = pixels.reshape(bitmap.height, bitmap.stride)[:, : bitmap.width]
        words: list[Word] = []
        try:
            for line, boxes in enumerate(reading_order(self._lines(gray))):
                for box in boxes:
                    if time.monotonic() > deadline:
                        raise RecognitionTimeout(f"not recognised within {timeout_s:.0f} s")
                    words.extend(self._words(gray, box, line))
        except RuntimeError as error:  # onnxruntime's own are of this class
            raise RecognitionFailed(str(error)) from error
        return words

    def close(self) -> None:
        """See :class:`~tasks.engines.OcrEngine`."""
        self.__dict__.clear()

    def _lines(self, gray: Gray) -> list[Box]:
        """Where lines are, in no order."""
        height, width = gray.shape
        scale = min(1.0, _LOOK_SIDE / max(height, width))
        look = tuple(max(_STEP, round(side * scale / _STEP) * _STEP) for side in (width, height))
        small = Image.fromarray(gray).resize(look, Image.Resampling.BILINEAR, reducing_gap=2.0)
        picture = np.broadcast_to(np.asarray(small, np.float32) / 127.5 - 1, (1, 3, look[1], look[0]))
        (answer,) = self._detection.run(None, {"x": np.ascontiguousarray(picture)})
        across, down = width / look[0], height / look[1]
        found = []
        for x0, y0, x1, y1 in components(answer[0, 0], _PIXEL, _LINE):
            more = (x1 - x0) * (y1 - y0) * _GROWTH / (2 * (x1 - x0 + y1 - y0))
            box = Box(
                max(0, int((x0 - more) * across)),
                max(0, int((y0 - more) * down)),
                min(width, int(np.ceil((x1 + more) * across))),
                min(height, int(np.ceil((y1 + more) * down))),
            )
            if box.x1 > box.x0 and box.y1 > box.y0:
                found.append(box)
        return found

    def _words(self, gray: Gray, box: Box, line: int) -> Iterator[Word]:
        """What a line says, word by word."""
        piece = Image.fromarray(gray[box.y0 : box.y1, box.x0 : box.x1])
        width = min(max(1, round(piece.width * _HEIGHT / piece.height)), _MOST_WIDTH)
        values = np.zeros((1, 3, _HEIGHT, max(width, _LEAST_WIDTH)), np.float32)
        values[0, :, :, :width] = np.asarray(piece.resize((width, _HEIGHT)), np.float32) / 127.5 - 1
        (answer,) = self._recognition.run(None, {"x": values})
        step = values.shape[3] / answer.shape[1] * piece.width / width
        for characters in words_of(self._decoded(answer[0])):
            x0 = box.x0 + int((characters[0].at - 0.5) * step)
            x1 = box.x0 + int(np.ceil((characters[-1].at + 1.5) * step))
            x0 = min(max(x0, box.x0), box.x1 - 1)
            confidence = 100 * sum(each.probability for each in characters) / len(characters)
            text = "".join(each.text for each in characters)
            yield Word(text, x0, box.y0, min(max(x1, x0 + 1), box.x1), box.y1, round(confidence, 1), line)

    def _decoded(self, answer: NDArray[np.float32]) -> list[_Character]:
        """The most probable character of each step; the same in a row is one (CTC)."""
        best = answer.argmax(axis=1)
        return [
            _Character(self._characters[index], at, float(answer[at, index]))
            for at, index in enumerate(best.tolist())
            if index and (at == 0 or best[at - 1] != index)
        ]


def words_of(characters: Sequence[_Character]) -> Iterator[list[_Character]]:
    """The characters between spaces."""
    word: list[_Character] = []
    for character in [*characters, _Character(" ", 0, 0)]:
        if not character.text.isspace():
            word.append(character)
        elif word:
            yield word
            word = []


def components(probabilities: NDArray[np.float32], pixel: float, mean: float) -> Iterator[Box]:
    """Boxes around connected pixels of at least the probability ``pixel`` whose mean is at least ``mean``."""
    owner: list[int] = []

    def root(number: int) -> int:
        while owner[number] != number:
            owner[number] = owner[owner[number]]
            number = owner[number]
        return number

    runs: list[tuple[int, int, int, int]] = []
    above: list[tuple[int, int, int]] = []
    for y, row in enumerate(probabilities >= pixel):
        edges = np.flatnonzero(np.diff(row, prepend=False, append=False)).tolist()
        here = []
        for x0, x1 in zip(edges[::2], edges[1::2], strict=True):
            number = len(owner)
            owner.append(number)
            for a0, a1, other in above:
                if a0 <= x1 and x0 <= a1:
                    owner[root(other)] = root(number)
            here.append((x0, x1, number))
            runs.append((y, x0, x1, number))
        above = here
    boxes: dict[int, list[int]] = {}
    for y, x0, x1, number in runs:
        box = boxes.setdefault(root(number), [x0, y, x1, y + 1])
        box[:] = min(box[0], x0), min(box[1], y), max(box[2], x1), max(box[3], y + 1)
    for x0, y0, x1, y1 in boxes.values():
        inside = probabilities[y0:y1, x0:x1]
        if min(x1 - x0, y1 - y0) >= _LEAST_SIDE and float(inside[inside >= pixel].mean()) >= mean:
            yield Box(x0, y0, x1, y1)


def reading_order(boxes: Sequence[Box]) -> Iterator[list[Box]]:
    """Lines of boxes from left to right: column by column between what stands across them, and each from the top."""
    if not boxes:
        return
    width = max(box.x1 for box in boxes) - min(box.x0 for box in boxes)
    part: list[Box] = []
    for box in sorted(boxes, key=lambda each: each.y0):
        if box.x1 - box.x0 > _ACROSS * width:
            yield from _columns(part, width)
            part = []
            yield from _rows([box])
        else:
            part.append(box)
    yield from _columns(part, width)


def _columns(boxes: Sequence[Box], width: int) -> Iterator[list[Box]]:
    """The rows of the left column before those of the right, where there are columns."""
    ordered = sorted(boxes)
    end = 0
    for place, (before, box) in enumerate(pairwise(ordered), start=1):
        end = max(end, before.x1)
        sides = ordered[:place], ordered[place:]
        if box.x0 >= end and all(_is_column(side, width) for side in sides):
            for side in sides:
                yield from _columns(side, width)
            return
    yield from _rows(boxes)


def _is_column(boxes: Sequence[Box], width: int) -> bool:
    return len(boxes) >= _COLUMN_LINES and float(np.median([box.x1 - box.x0 for box in boxes])) >= _COLUMN_WIDTH * width


def _rows(boxes: Sequence[Box]) -> Iterator[list[Box]]:
    """Boxes that stand beside each other are one row."""
    row: list[Box] = []
    for box in sorted(boxes, key=lambda each: each.y0 + each.y1):
        if row and box.y0 + box.y1 > 2 * row[0].y1 - (row[0].y1 - row[0].y0) // 2:
            yield sorted(row)
            row = []
        row.append(box)
    if row:
        yield sorted(row)


def _session(path: object) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Each page has another size: what was kept for the last one would only add up.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def make(language: str) -> OcrEngine:
    """An engine for languages of ``LANGUAGES``: one network reads them all."""
    return PaddleEngine(language)
