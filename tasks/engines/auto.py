"""Tesseract, and PP-OCR for what Tesseract is in doubt of; for Chinese and Japanese PP-OCR alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from tasks.engines import Bitmap, EngineUnavailable, OcrEngine, RecognitionFailed, Word, make_engine
from tasks.engines.paddle_models import PaddleUnavailable, find_models, is_cjk

#: Tesseract's mean confidence below which a page is read again. Print is read with 80 and more.
_IN_DOUBT = 70.0
#: What a word's confidence is at the least where it is hardly ever noise; the networks are surer of themselves.
_BELIEVABLE, _BELIEVABLE_OF_SECOND = 70.0, 90.0
#: The second reading counts where it has so much more than the first: on print in English Tesseract is better.
_MORE = 1.1


class AutoEngine:
    """The second engine is made when a page needs it. A page's words are those of one engine, never of both."""

    def __init__(self, language: str) -> None:
        self._cjk = is_cjk(language)
        self._second: OcrEngine | None = None
        if not self._cjk:
            try:
                find_models("eng")
            except PaddleUnavailable as error:
                raise EngineUnavailable(str(error)) from error
        self._first = make_engine("ppocr" if self._cjk else "tesseract", language)

    def recognise(self, bitmap: Bitmap, *, timeout_s: float) -> list[Word]:
        """See :class:`~tasks.engines.OcrEngine`."""
        deadline = time.monotonic() + timeout_s
        words = self._first.recognise(bitmap, timeout_s=timeout_s)
        if self._cjk or _confidence(words) >= _IN_DOUBT:
            return words
        if self._second is None:
            # Its letters are those of all languages that it knows.
            self._second = make_engine("ppocr", "eng")
        again: list[Word] = []
        with suppress(RecognitionFailed):  # the first reading is there, be it a doubtful one
            again = self._second.recognise(bitmap, timeout_s=deadline - time.monotonic())
        first, second = _letters(words, _BELIEVABLE), _letters(again, _BELIEVABLE_OF_SECOND)
        return again if second > _MORE * first else words

    def close(self) -> None:
        """See :class:`~tasks.engines.OcrEngine`."""
        for engine in filter(None, (self._first, self._second)):
            engine.close()


def _confidence(words: Sequence[Word]) -> float:
    return sum(word.confidence for word in words) / len(words) if words else 0.0


def _letters(words: Sequence[Word], believable: float) -> int:
    return sum(len(word.text) for word in words if word.confidence >= believable)


def make(language: str) -> OcrEngine:
    """An engine for a language of Tesseract, or for Chinese and Japanese."""
    return AutoEngine(language)
