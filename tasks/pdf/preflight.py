"""Is this a document we can work on? Answered in a child process, with a sentence a person understands.

The file is parsed by ``tasks.pdf.preflight_child``, never here: whatever it does to its process, the answer is a
``Refused``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tasks.pdf import sandbox
from tasks.pdf.costs import PageWeight
from tasks.pdf.geometry import MIN_DPI
from tasks.pdf.image_kinds import MAX_DPI, MIN_IMAGE_DPI, begins_as_image

MAX_PAGES = 20_000
#: What a check may allocate: 20,000 pages take 0.1 GB, and a service checks several documents at once.
MEMORY_BYTES = 448 << 20

#: Seconds that images get beside, for each byte of the file, and in all: each page of a TIFF is unpacked and packed.
_SECONDS_PER_IMAGE_BYTE, _MOST_IMAGE_SECONDS = 2e-6, 600.0

#: Junk before the header is common (mail gateways, HTTP answers saved whole); readers look this far for it.
_HEADER_WITHIN = 1024

#: Reason → (HTTP status, sentence). The sentence may use what the refusal knows: page, pages, limit.
REFUSALS: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "empty": (415, "The file is empty."),
        "not_pdf": (415, "This is not a PDF file, nor a TIFF, JPEG or PNG image."),
        "too_large": (413, "The file is larger than {limit} MB, the most that is accepted."),
        "password": (422, "The PDF needs a password to be opened. Save a copy without a password and upload that."),
        "signed": (
            422,
            "The PDF is digitally signed, and adding text would break the signature. Upload an unsigned copy.",
        ),
        "portfolio": (
            422,
            "This is a PDF portfolio: the documents are inside it. Extract them and upload each by itself.",
        ),
        "dynamic_form": (
            422,
            "This is a dynamic form (XFA), whose pages are made by the program that opens it."
            " Print it to a PDF and upload that.",
        ),
        "no_pages": (422, "The PDF has no pages."),
        "too_many_pages": (
            422,
            "The file has {pages} pages, and at most {limit} are accepted. Split it and try again.",
        ),
        "page_too_large": (422, f"Page {{page}} is too large to be read: it would get less than {MIN_DPI:.0f} dpi."),
        "damaged": (422, "The PDF is damaged and could not be repaired. Save it again from its source and try again."),
        "too_complex": (
            422,
            "The file takes too much time or memory to open. It may be damaged; save it again from its source.",
        ),
        "image_unreadable": (
            422,
            "The image is damaged, or of a kind that cannot be read. Scan it again, or save it as TIFF, JPEG or PNG"
            " with 8 bits a colour.",
        ),
        "image_too_large": (
            422,
            "Page {page} has an image of {width} × {height} pixels, and at most {limit} million are read."
            " Scan it with a lower resolution, or in parts.",
        ),
        "image_memory": (
            422,
            "The image takes too much memory to be unpacked. Scan it with a lower resolution, or in parts.",
        ),
        "image_dpi": (
            422,
            "The image says that it has {dpi} dpi, which no scan of a page has."
            f" Save it with its true resolution, from {MIN_IMAGE_DPI:.0f} to {MAX_DPI:.0f}, or without any.",
        ),
        "image_animated": (
            422,
            "The image is animated. Save the one picture that shows the page, and upload that.",
        ),
    }
)


class Refused(Exception):
    """The file is not accepted. ``reason`` is a key of ``REFUSALS``, the message is for a person."""

    def __init__(self, reason: str, message: str, http_status: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.http_status = http_status

    @classmethod
    def because(cls, reason: str, **details: Any) -> Refused:
        """The refusal of this row of ``REFUSALS``."""
        http_status, sentence = REFUSALS[reason]
        return cls(reason, sentence.format_map(details), http_status)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.message, self.http_status)


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What is known about an accepted document."""

    #: The PDF to work on: the one that was given, or in ``scratch`` its repaired copy, or what was made of images.
    path: Path
    pages: int
    repaired: bool
    #: How many pages carry text already; None where counting took too long.
    text_pages: int | None
    #: Pages, by their place in the page tree from 1, that the document names and does not contain; they are not among
    #: ``pages``.
    missing_pages: tuple[int, ...] = ()
    #: Pages of which nothing is left, each with the reason; they are among ``pages``, and look empty.
    broken_pages: tuple[tuple[int, str], ...] = ()
    #: What each page weighs, for what it is expected to cost; empty where that is not known.
    weights: tuple[PageWeight, ...] = ()


def check(
    path: Path,
    *,
    scratch: Path,
    dpi: float = 300,
    max_bytes: int = 500_000_000,
    max_pages: int = MAX_PAGES,
    timeout: float = 60.0,
    memory_bytes: int = MEMORY_BYTES,
) -> Preflight:
    """Look at a document without trusting it. ``scratch`` is an existing folder for what is made of it.

    :param dpi: what pages are rendered at; a huge page gets less, and one too huge for any is refused.
    :param timeout: seconds, of the wall clock and of CPU time; images get more, by their size.
    :raises Refused: with the reason, for a person.
    """
    if _check_outside(path, max_bytes):
        timeout = min(timeout + _SECONDS_PER_IMAGE_BYTE * path.stat().st_size, max(timeout, _MOST_IMAGE_SECONDS))
    child = sandbox.spawn(
        "tasks.pdf.preflight_child", str(path), str(scratch), str(dpi), str(max_pages), str(timeout), str(memory_bytes)
    )
    try:
        output, _ = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
    verdict = _last_verdict(output)
    if verdict is None:
        raise Refused.because("too_complex")
    if "refused" in verdict:
        raise Refused.because(verdict.pop("refused"), **verdict)
    return Preflight(
        path=Path(verdict["path"]),
        pages=verdict["pages"],
        repaired=verdict["repaired"],
        text_pages=verdict["text_pages"],
        missing_pages=tuple(verdict["missing_pages"]),
        broken_pages=tuple((page, reason) for page, reason in verdict["broken_pages"]),
        weights=tuple(PageWeight.from_json(weight) for weight in verdict.get("weights", ())),
    )


def _check_outside(path: Path, max_bytes: int) -> bool:
    """What can be said without parsing. The answer is whether it is an image."""
    size = path.stat().st_size
    if size == 0:
        raise Refused.because("empty")
    if size > max_bytes:
        raise Refused.because("too_large", limit=max_bytes // 1_000_000)
    with path.open("rb") as file:
        beginning = file.read(_HEADER_WITHIN)
    if begins_as_image(beginning):
        return True
    if b"%PDF" not in beginning:
        raise Refused.because("not_pdf")
    return False


def _last_verdict(output: bytes) -> dict[str, Any] | None:
    """The last whole line. The child says what it knows before it dares to look into the pages."""
    *lines, _unfinished = output.split(b"\n")
    verdict: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return verdict
