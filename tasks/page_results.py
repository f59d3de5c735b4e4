"""What became of a page: the record that a chunk writes and the merge reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from itertools import groupby
from statistics import fmean
from types import MappingProxyType
from typing import Any, Self

from tasks.engines import Word
from tasks.pdf.geometry import Geometry

#: Mean confidence of a page's words below which they are probably not what stands there. Print is read with 80 and
#: more, faint or small print with 60 and more, noise and pictures with 20 to 40.
_BELIEVABLE = 50.0


class PageStatus(StrEnum):
    """What became of a page."""

    #: Its words were recognised; it gets a text layer.
    READ = "read"
    #: It stays as it is: all that can be read on it is text already, or it was not asked for.
    KEPT = "kept"
    #: There is nothing on it to read.
    BLANK = "blank"
    #: Part of it is lost; the rest was read.
    DAMAGED = "damaged"
    #: Nothing of it could be read.
    UNREADABLE = "unreadable"
    #: It was never looked at: it is not in the file, or its chunk failed.
    MISSING = "missing"

    @classmethod
    def _missing_(cls, value: object) -> PageStatus | None:
        """Chunks that version 0.1 stored call a page that was read ``recognised``."""
        return cls.READ if value == "recognised" else None

    @property
    def reservation(self) -> bool:
        """Whether a job with such a page is PARTIAL, and the page is named among its failures."""
        return self in _ENDINGS


#: The statuses that are reservations, and how the sentence about such a page ends.
_ENDINGS: Mapping[PageStatus, str] = MappingProxyType(
    {
        PageStatus.DAMAGED: "; what is left of it was read",
        PageStatus.UNREADABLE: "",
        PageStatus.MISSING: "",
    }
)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a page has its status. ``clause`` follows "Page 3" and names in braces the details that it needs."""

    statuses: tuple[PageStatus, ...]
    clause: str


_UNREADABLE = (PageStatus.UNREADABLE,)
_READ_IN_PART = (PageStatus.DAMAGED, PageStatus.UNREADABLE)

#: Slug → reason. A page that is simply read or blank has none; every reservation has one.
REASONS: Mapping[str, Reason] = MappingProxyType(
    {
        # What stays as it is, and why.
        "has_text": Reason((PageStatus.KEPT,), "carries text already"),
        "not_asked_for": Reason((PageStatus.KEPT,), "was not asked for"),
        # What is lost with an image. The rest of the page may be readable.
        "image_missing": Reason(_READ_IN_PART, "has an image that is missing"),
        "image_undecodable": Reason(_READ_IN_PART, "has an image that cannot be decoded"),
        "image_incomplete": Reason(_READ_IN_PART, "has an image that ends too early"),
        "image_too_large": Reason(_READ_IN_PART, "has an image that takes too much memory"),
        "hidden_layer": Reason(_READ_IN_PART, "has an image on a layer that is switched off"),
        "content_broken": Reason(_READ_IN_PART, "has contents that are broken"),
        # What keeps a page from being seen.
        "no_area": Reason(_UNREADABLE, "has no visible area"),
        "too_large": Reason(_UNREADABLE, "is too large to be read"),
        "render_failed": Reason(_UNREADABLE, "could not be rendered: {detail}"),
        "render_died": Reason(_UNREADABLE, "could not be rendered: it takes too much memory or time, or is broken"),
        "render_timeout": Reason(_UNREADABLE, "could not be rendered within {seconds:.0f} s"),
        # What keeps a page from being read.
        "recognition_failed": Reason(_UNREADABLE, "could not be recognised: {detail}"),
        "recognition_timeout": Reason(_UNREADABLE, "could not be recognised within {seconds:.0f} s"),
        "reader_died": Reason(
            _UNREADABLE, "could not be read: the process that reads it ended {times} times, perhaps for want of memory"
        ),
        # What was never looked at.
        "not_a_page": Reason(_UNREADABLE, "is no page: the file has something else in its place"),
        "page_missing": Reason((PageStatus.MISSING,), "is missing from the file"),
        "chunk_failed": Reason((PageStatus.MISSING,), "was not read, because its chunk failed"),
    }
)


def sentence(page: int, status: PageStatus, reason: str, **details: Any) -> str:
    """For people: ``Page 3 has an image that ends too early; what is left of it was read.``

    :raises ValueError: for a status that this reason does not lead to.
    """
    row = REASONS[reason]
    if status not in row.statuses:
        raise ValueError(f"{reason} does not make a page {status}")
    return f"Page {page} {row.clause.format_map(details)}{_ENDINGS.get(status, '')}."


@dataclass(frozen=True, kw_only=True)
class PageResult:
    """One page, counted from 1. ``geometry`` and ``words`` belong together: boxes are in upright pixels."""

    page: int
    status: PageStatus
    #: A key of ``REASONS``, and its sentence.
    reason: str | None = None
    message: str | None = None
    dpi: float | None = None
    geometry: Geometry | None = None
    words: tuple[Word, ...] = ()
    #: Which of the words, by index, the file has in that place already: they are not added to it again.
    in_file: tuple[int, ...] = ()
    #: The text that the page carries already and that stays.
    own_text: str = ""
    #: The page has an invisible text layer of an earlier OCR, which the new one replaces.
    replaces_layer: bool = False
    #: By how many degrees the page itself is to be turned clockwise: 0, 90, 180, 270.
    turns_page: int = 0

    @classmethod
    def because(cls, page: int, status: PageStatus, reason: str, **details: Any) -> Self:
        """A result without words, with its reason and the sentence for it."""
        return cls(page=page, status=status, reason=reason, message=sentence(page, status, reason, **details))

    def damaged(self, reason: str, **details: Any) -> Self:
        """The same page, of which something is lost: damaged where something believable is left, else unreadable."""
        left = self.own_text.strip() or (self.words and not self.doubtful)
        status = PageStatus.DAMAGED if left else PageStatus.UNREADABLE
        return replace(
            self,
            status=status,
            reason=reason,
            message=sentence(self.page, status, reason, **details),
            words=self.words if left else (),
        )

    @property
    def confidence(self) -> float | None:
        """Mean confidence of its words, 0 to 100; None where nothing was recognised."""
        return round(fmean(word.confidence for word in self.words), 1) if self.words else None

    @property
    def doubtful(self) -> bool:
        """Whether what was read is probably not what stands there. The words are kept all the same."""
        return self.confidence is not None and self.confidence < _BELIEVABLE

    @property
    def text(self) -> str:
        """What the page says, a line of print per line: first what it carried already, then what was read."""
        read = "\n".join(" ".join(word.text for word in line) for _, line in groupby(self.words, lambda w: w.line))
        return "\n".join(filter(None, [self.own_text, read]))

    @property
    def changes_page(self) -> bool:
        """Whether the page is another one in the searchable PDF."""
        return bool(self.words_to_add or self.replaces_layer or self.turns_page)

    @property
    def words_to_add(self) -> tuple[Word, ...]:
        """What the text layer says."""
        there = frozenset(self.in_file)
        return tuple(word for index, word in enumerate(self.words) if index not in there)

    def words_on_bitmap(self) -> Iterator[Word]:
        """Its words with boxes on the page as displayed, in the bitmap's pixels."""
        for word in self.words:
            assert self.geometry is not None
            x0, y0, x1, y1 = self.geometry.box_on_bitmap(word.x0, word.y0, word.x1, word.y1)
            yield replace(word, x0=x0, y0=y0, x1=x1, y1=y1)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON; a word is ``[text, x0, y0, x1, y1, confidence, line]``."""
        return {
            "page": self.page,
            "status": self.status.value,
            "reason": self.reason,
            "message": self.message,
            "dpi": self.dpi,
            "geometry": None if self.geometry is None else list(astuple(self.geometry)),
            "words": [list(astuple(word)) for word in self.words],
            "in_file": list(self.in_file),
            "own_text": self.own_text,
            "replaces_layer": self.replaces_layer,
            "turns_page": self.turns_page,
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """The reverse of ``to_dict``."""
        geometry = record["geometry"]
        return cls(
            page=record["page"],
            status=PageStatus(record["status"]),
            reason=record.get("reason"),
            message=record["message"],
            dpi=record["dpi"],
            geometry=None if geometry is None else Geometry(tuple(geometry[0]), *geometry[1:]),
            words=tuple(Word(*word) for word in record["words"]),
            in_file=tuple(record.get("in_file", ())),
            own_text=record["own_text"],
            replaces_layer=record["replaces_layer"],
            turns_page=record.get("turns_page", 0),
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
