"""What an OCR engine is, and the table of those there are. A new engine is one module and one line in ``ENGINES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Protocol, cast


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A page in 8-bit gray, 0 black. Rows from the top, ``stride`` bytes apart (at least ``width``)."""

    width: int
    height: int
    stride: int
    pixels: bytes
    dpi: float


@dataclass(frozen=True, slots=True)
class Word:
    """A recognised word. The box is in pixels of the bitmap, origin at the upper left, x1 and y1 exclusive.

    ``confidence`` goes from 0 to 100; ``line`` counts the page's lines from 0 in reading order.
    """

    text: str
    x0: int
    y0: int
    x1: int
    y1: int
    confidence: float
    line: int


class EngineUnavailable(Exception):
    """The OCR engine cannot be used as configured; check OCR_ENGINE and OCR_LANGUAGE."""


class RecognitionFailed(Exception):
    """The page could not be recognised; the message says why."""


class RecognitionTimeout(RecognitionFailed):
    """The page was not recognised within its time; nothing of it can be used."""


class OcrEngine(Protocol):
    """Recognises one page after the other, in the process and the thread that made it.

    An engine gets pixels, and no path, job, network or store. It keeps no page after the call, and gives the same
    words for the same bitmap whatever it saw before. Long work releases the GIL, so that heartbeats go on.
    """

    def recognise(self, bitmap: Bitmap, *, timeout_s: float) -> list[Word]:
        """The words in reading order, ``line`` never falling, each text without white space, each box in the bitmap.

        :raises RecognitionTimeout: after ``timeout_s`` seconds; a partial result is never returned.
        :raises RecognitionFailed: for whatever else this page does to the engine; the next one may go well.
        """

    def close(self) -> None:
        """Free what the engine holds. It is not used afterwards; a second call does nothing."""


#: Name → module, imported on first use: what a deployment does not use it need not install.
#: Each module has ``make(language) -> OcrEngine``, which raises ``EngineUnavailable``.
ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "tesseract": "tasks.engines.tesseract",
        "ppocr": "tasks.engines.ppocr",
        "auto": "tasks.engines.auto",
        "null": "tasks.engines.null",
    }
)


def make_engine(name: str, language: str) -> OcrEngine:
    """A new engine of this name.

    :raises EngineUnavailable: there is none of that name, or it does not know the language.
    """
    if name not in ENGINES:
        raise EngineUnavailable(f"There is no OCR engine {name!r}; OCR_ENGINE may be {', '.join(ENGINES)}.")
    make = cast(Callable[[str], OcrEngine], import_module(ENGINES[name]).make)
    return make(language)
