"""What became of a page: the record that a chunk writes and the merge reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from tasks.engines import Word
from tasks.pdf.geometry import Geometry


class PageStatus(StrEnum):
    """Only a recognised page gets a text layer; the others stay as they are."""

    RECOGNISED = "recognised"
    #: It carries text already, and the mode says to leave it.
    KEPT = "kept"
    BLANK = "blank"
    #: It could not be rendered or recognised; the message says why.
    UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True)
class PageResult:
    """One page, counted from 1. ``geometry`` and ``words`` belong together: boxes are in the bitmap's pixels."""

    page: int
    status: PageStatus
    message: str | None = None
    dpi: float | None = None
    geometry: Geometry | None = None
    words: tuple[Word, ...] = ()
    #: The text that a kept page already carries.
    own_text: str = ""
    #: The page has an invisible text layer of an earlier OCR, which the new one replaces.
    replaces_layer: bool = False

    @property
    def text(self) -> str:
        """What the page says, a line of print per line."""
        if self.status is PageStatus.KEPT:
            return self.own_text
        return "\n".join(" ".join(word.text for word in line) for _, line in groupby(self.words, lambda w: w.line))

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON; a word is ``[text, x0, y0, x1, y1, confidence, line]``."""
        return {
            "page": self.page,
            "status": self.status.value,
            "message": self.message,
            "dpi": self.dpi,
            "geometry": None if self.geometry is None else list(astuple(self.geometry)),
            "words": [list(astuple(word)) for word in self.words],
            "own_text": self.own_text,
            "replaces_layer": self.replaces_layer,
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> PageResult:
        """The reverse of ``to_dict``."""
        geometry = record["geometry"]
        return cls(
            page=record["page"],
            status=PageStatus(record["status"]),
            message=record["message"],
            dpi=record["dpi"],
            geometry=None if geometry is None else Geometry(tuple(geometry[0]), *geometry[1:]),
            words=tuple(Word(*word) for word in record["words"]),
            own_text=record["own_text"],
            replaces_layer=record["replaces_layer"],
        )


def page_ranges(pages: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending page numbers as ranges, first and last: ``[1, 2, 3, 7]`` → ``[(1, 3), (7, 7)]``."""
    ranges: list[tuple[int, int]] = []
    for page in pages:
        if ranges and page == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], page)
        else:
            ranges.append((page, page))
    return ranges


def chunk_ranges(pages: int, size: int) -> list[tuple[int, int]]:
    """Pages ``1..pages`` in ranges of at most ``size``, first and last: ``(45, 25)`` → ``[(1, 25), (26, 45)]``.

    :raises ValueError: unless both are positive.
    """
    if pages < 1 or size < 1:
        raise ValueError(f"there are no chunks of {size} pages in {pages}")
    return [(first, min(first + size - 1, pages)) for first in range(1, pages + 1, size)]
