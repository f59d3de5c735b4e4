"""What can be chosen for one document: by a form's fields, or on the command line. One sentence for each bad value."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Self

from tasks.engines import ENGINES
from tasks.engines.paddle_models import PaddleLanguageUnknown, PaddleUnavailable, find_models, is_cjk
from tasks.languages import LanguageUnavailable, find_data
from tasks.settings import CHUNK_PAGES, DPI, MODES, ServiceSettings

_RANGE = re.compile(r"\s*(\d{1,6})\s*(?:(-)\s*(\d{1,6})?\s*)?")
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
#: The end of a range that goes to the last page.
_LAST = 10**6


class InvalidOption(ValueError):
    """An option that cannot be used. ``option`` is its name, the message a sentence for a person."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option
        self.message = message


@dataclass(frozen=True, kw_only=True)
class OcrOptions:
    """How one document is read. Of ``pages``, ranges with both ends inclusive, None means all."""

    mode: str = "skip"
    language: str = "eng"
    pages: tuple[tuple[int, int], ...] | None = None
    dpi: int = 300
    #: Turn pages for good whose print lies on its side or on its head.
    rotate_pages: bool = False
    engine: str = "tesseract"
    chunk_pages: int = 25

    @classmethod
    def default(cls, settings: ServiceSettings) -> Self:
        """What a deployment has set."""
        return cls(
            mode=settings.ocr_mode,
            language=settings.ocr_language,
            dpi=settings.ocr_dpi,
            engine=settings.ocr_engine,
            chunk_pages=settings.ocr_chunk_pages,
        )

    @classmethod
    def parse(cls, given: Mapping[str, str | None], settings: ServiceSettings) -> Self:
        """What a person chose, by the names in ``OPTIONS``; what is empty or missing is as the deployment has it.

        :raises InvalidOption: for the first value that cannot be used.
        """
        chosen = {
            name: read(value.strip()) for name, read in OPTIONS.items() if (value := given.get(name)) and value.strip()
        }
        options = replace(cls.default(settings), **chosen)
        options.check()
        return options

    def check(self) -> None:
        """Whether the engine can be had, and the language by it.

        :raises InvalidOption: when it cannot.
        """
        cjk = is_cjk(self.language)
        if self.engine == "tesseract" or (self.engine == "auto" and not cjk):
            try:
                find_data(self.language)
            except LanguageUnavailable as error:
                raise InvalidOption("language", str(error)) from None
        if self.engine in ("ppocr", "auto"):
            try:
                find_models(self.language if self.engine == "ppocr" or cjk else "eng")
            except PaddleLanguageUnknown as error:
                raise InvalidOption("language", str(error)) from None
            except PaddleUnavailable as error:
                raise InvalidOption("engine", str(error)) from None

    def check_pages(self, count: int) -> None:
        """Whether a document of so many pages has any that is asked for.

        :raises InvalidOption: when it has none.
        """
        if not any(self.asks_for(page) for page in range(1, count + 1)):
            raise InvalidOption("pages", f"The document has {count} pages, and none of them is asked for.")

    def asks_for(self, page: int) -> bool:
        """Whether this page is to be looked at."""
        return self.pages is None or any(first <= page <= last for first, last in self.pages)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for a task's message."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """What tells pages apart that were read otherwise: 16 hexadecimal digits."""
        record = {name: value for name, value in self.to_dict().items() if name != "chunk_pages"}
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The reverse of ``to_dict``."""
        pages = record["pages"]
        return cls(**{**record, "pages": None if pages is None else tuple((first, last) for first, last in pages)})


def _one_of(option: str, values: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in values:
            raise InvalidOption(option, f"{option} must be one of {', '.join(values)}, not {text!r}.")
        return text

    return read


def _number(option: str, allowed: range) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if number not in allowed:
            raise InvalidOption(
                option, f"{option} must be a whole number from {allowed[0]} to {allowed[-1]}, not {text!r}."
            )
        return number

    return read


def _pages(text: str) -> tuple[tuple[int, int], ...]:
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first, dash, last = match.groups() if match else ("0", None, None)
        start, end = int(first), int(last) if last else _LAST if dash else int(first)
        if not 1 <= start <= end:
            raise InvalidOption(
                "pages", f"pages must be numbers and ranges from 1 on, such as 1-3,7,12-, not {text!r}."
            )
        ranges.append((start, end))
    return tuple(sorted(ranges))


def _truth(text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise InvalidOption("rotate_pages", f"rotate_pages must be true or false, not {text!r}.")
    return text.lower() in _YES


#: Name of a form's field → how its text is read.
OPTIONS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {
        "mode": _one_of("mode", MODES),
        "language": str,
        "pages": _pages,
        "dpi": _number("dpi", DPI),
        "rotate_pages": _truth,
        "engine": _one_of("engine", tuple(ENGINES)),
        "chunk_pages": _number("chunk_pages", CHUNK_PAGES),
    }
)
