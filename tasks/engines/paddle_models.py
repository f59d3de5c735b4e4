"""PP-OCR's networks: where they are, and which languages they know. Nothing of them is loaded here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_DETECTION, _RECOGNITION = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"

#: Of these Tesseract reads less than the networks do.
CJK = frozenset({"chi_sim", "chi_tra", "jpn"})
#: Whose letters are all among those that the network was trained on, by Tesseract's codes.
_ALPHABETS = "cat ces dan deu ell eng est fin fra hrv hun isl ita lat lav lit nld nor pol por ron slk slv spa swe tur"
LANGUAGES = CJK | frozenset(_ALPHABETS.split())


class PaddleUnavailable(Exception):
    """PP-OCR cannot be used; the message is a sentence that says what to do about it."""


class PaddleLanguageUnknown(PaddleUnavailable):
    """It is there, and does not know the language."""


@dataclass(frozen=True, slots=True)
class PaddleModels:
    """The network that finds lines, and the one that reads them."""

    detection: Path
    recognition: Path


def find_models(language: str) -> PaddleModels:
    """The networks for a language, or for several: ``jpn+eng``. They are the same for all.

    :raises PaddleUnavailable: where they are not installed.
    :raises PaddleLanguageUnknown: for a language that they do not know.
    """
    unknown = [code for code in language.split("+") if code not in LANGUAGES]
    if unknown:
        raise PaddleLanguageUnknown(
            f"The engine ppocr does not know the language {unknown[0]!r}; it knows {', '.join(sorted(LANGUAGES))}."
        )
    # Of the wheel only the networks are used; its own code would load OpenCV.
    spec = find_spec("rapidocr")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        found = PaddleModels(Path(folder) / "models" / _DETECTION, Path(folder) / "models" / _RECOGNITION)
        if found.detection.is_file() and found.recognition.is_file():
            return found
    raise PaddleUnavailable(
        "The engine ppocr is not installed. Install the extra `ppocr` where documents are taken in and where they are"
        " read: `pip install '.[ppocr]'` in the checkout."
    )


def is_cjk(language: str) -> bool:
    """Whether Chinese or Japanese is among the languages."""
    return not CJK.isdisjoint(language.split("+"))
