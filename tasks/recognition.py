"""A range of pages, one after the other: render, recognise, and say what became of each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from tasks.engines import OcrEngine, RecognitionFailed, Word
from tasks.page_results import PageResult, PageStatus
from tasks.pdf.render import PageRenderer, PageUnreadable

#: Mean confidence of a page's words. Print is read with 80 and more, noise with 20 to 40.
_BELIEVABLE = 50


def recognise_pages(
    pages: Iterable[int], renderer: PageRenderer, engine: OcrEngine, *, page_timeout: float
) -> Iterator[PageResult]:
    """One result per page, in order. A page that fails is named in its result and stops nothing.

    :param page_timeout: seconds for rendering and recognising a page together.
    """
    for page in pages:
        try:
            yield _recognise(page, renderer, engine, page_timeout)
        except (PageUnreadable, RecognitionFailed) as error:
            yield PageResult(page=page, status=PageStatus.UNREADABLE, message=f"Page {page} {error}.")


def _doubtful(words: Sequence[Word]) -> bool:
    """Whether what was read may be the noise of a broken image: nothing, or nothing that the engine believes in."""
    return not words or fmean(word.confidence for word in words) < _BELIEVABLE


def _recognise(page: int, renderer: PageRenderer, engine: OcrEngine, page_timeout: float) -> PageResult:
    deadline = time.monotonic() + page_timeout
    seen = renderer.render(page)
    if seen.own_text is not None:
        return PageResult(page=page, status=PageStatus.KEPT, own_text=seen.own_text)
    words = () if seen.bitmap is None else tuple(engine.recognise(seen.bitmap, timeout_s=deadline - time.monotonic()))
    if _doubtful(words) and (fault := renderer.fault(page)) is not None:
        raise PageUnreadable(fault)
    return PageResult(
        page=page,
        status=PageStatus.BLANK if seen.bitmap is None else PageStatus.RECOGNISED,
        dpi=round(seen.dpi, 2),
        geometry=seen.geometry,
        words=words,
        replaces_layer=seen.replaces_layer,
    )
