"""Tesseract in this process: LSTM only, one thread, one API object for all pages."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Before the library is loaded: a worker has one process per core, and OpenMP threads would fight over them.
os.environ.setdefault("OMP_THREAD_LIMIT", "1")

from tesserocr import OEM, PSM, RIL, PyTessBaseAPI, iterate_level

from tasks.engines import Bitmap, EngineUnavailable, OcrEngine, RecognitionFailed, RecognitionTimeout, Word
from tasks.languages import LanguageUnavailable, find_data

#: Tesseract scales a smaller image up to nothing and logs an error; there is no letter in it.
_MIN_SIDE = 10


class TesseractEngine:
    """``Recognize`` releases the GIL, and gives up by itself when its time is over."""

    def __init__(self, language: str) -> None:
        try:
            data = find_data(language)
            with _one_folder(data) as path:
                self._api = PyTessBaseAPI(path=str(path), lang=language, oem=OEM.LSTM_ONLY, psm=PSM.AUTO)
        except LanguageUnavailable as error:
            raise EngineUnavailable(str(error)) from error
        except RuntimeError as error:
            raise EngineUnavailable(f"Tesseract cannot use its data for {language!r}: {error}") from error

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


@contextmanager
def _one_folder(data: Mapping[str, Path]) -> Iterator[Path]:
    """A folder with all of the data: Tesseract looks into one only, and reads it once."""
    found = set(data.values())
    if len(found) == 1:
        yield found.pop()
        return
    with tempfile.TemporaryDirectory(prefix="tessdata-") as name:
        for code, folder in data.items():
            link = Path(name) / f"{code}.traineddata"
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(folder / f"{code}.traineddata")
        yield Path(name)


def make(language: str) -> OcrEngine:
    """An engine for a Tesseract language, ``eng`` or ``eng+deu``."""
    return TesseractEngine(language)
