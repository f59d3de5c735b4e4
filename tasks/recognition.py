"""A range of pages, one after the other: render, recognise, and say what became of each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tasks.engines import OcrEngine, RecognitionFailed, RecognitionTimeout
from tasks.page_results import PageResult, PageStatus
from tasks.pdf.render import PageRenderer, PageUnreadable


def recognise_pages(
    pages: Iterable[int], renderer: PageRenderer, engine: OcrEngine, *, page_timeout: float
) -> Iterator[PageResult]:
    """One result per page, in order. A page that fails is named in its result and stops nothing.

    :param page_timeout: seconds for rendering and recognising a page together.
    """
    for page in pages:
        try:
            yield _recognise(page, renderer, engine, page_timeout)
        except PageUnreadable as error:
            yield PageResult.because(page, PageStatus.UNREADABLE, error.reason, **error.details)
        except RecognitionTimeout:
            yield PageResult.because(page, PageStatus.UNREADABLE, "recognition_timeout", seconds=page_timeout)
        except RecognitionFailed as error:
            yield PageResult.because(page, PageStatus.UNREADABLE, "recognition_failed", detail=str(error))


def _recognise(page: int, renderer: PageRenderer, engine: OcrEngine, page_timeout: float) -> PageResult:
    deadline = time.monotonic() + page_timeout
    seen = renderer.render(page)
    if seen.own_text is not None:
        return replace(PageResult.because(page, PageStatus.KEPT, "has_text"), own_text=seen.own_text)
    words = () if seen.bitmap is None else tuple(engine.recognise(seen.bitmap, timeout_s=deadline - time.monotonic()))
    result = PageResult(
        page=page,
        status=PageStatus.BLANK if seen.bitmap is None else PageStatus.READ,
        dpi=round(seen.dpi, 2),
        geometry=seen.geometry,
        words=words,
        replaces_layer=seen.replaces_layer,
    )
    # Nothing, or nothing that the engine believes in, may be the noise of a broken image.
    if (not words or result.doubtful) and (fault := renderer.fault(page)) is not None:
        return result.damaged(fault)
    return result
