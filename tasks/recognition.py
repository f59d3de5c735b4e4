"""A range of pages, one after the other: render, recognise, and say what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from PIL import Image

from tasks.engines import Bitmap, OcrEngine, RecognitionFailed, RecognitionTimeout
from tasks.page_results import PageResult, PageStatus
from tasks.pdf.geometry import Geometry
from tasks.pdf.own_words import without_repetitions
from tasks.pdf.render import PageRenderer, PageUnreadable, RenderedPage
from tasks.pdf.turning import turn

#: The confidence below which a word is hardly ever one.
_NOISE = 50
#: The confidence from which on a word is hardly ever noise.
_BELIEVABLE_WORD = 70


def recognise_pages(
    pages: Iterable[int],
    renderer: PageRenderer,
    engine: OcrEngine,
    *,
    page_timeout: float,
    asks_for: Callable[[int], bool] = lambda page: True,
    rotate_pages: bool = False,
) -> Iterator[PageResult]:
    """One result per page, in order. A page that fails is named in its result and stops nothing.

    :param page_timeout: seconds for rendering and recognising a page together.
    :param asks_for: whether a page is to be looked at; the others are kept.
    :param rotate_pages: turn pages for good that lie on their side or on their head.
    """
    for page in pages:
        if not asks_for(page):
            yield PageResult.because(page, PageStatus.KEPT, "not_asked_for")
            continue
        try:
            result = _recognise(page, renderer, engine, page_timeout)
            yield _turning_the_page(result) if rotate_pages else result
        except PageUnreadable as error:
            yield PageResult.because(page, PageStatus.UNREADABLE, error.reason, **error.details)
        except RecognitionTimeout:
            yield PageResult.because(page, PageStatus.UNREADABLE, "recognition_timeout", seconds=page_timeout)
        except RecognitionFailed as error:
            yield PageResult.because(page, PageStatus.UNREADABLE, "recognition_failed", detail=str(error))


def _recognise(page: int, renderer: PageRenderer, engine: OcrEngine, page_timeout: float) -> PageResult:
    deadline = time.monotonic() + page_timeout
    seen = renderer.render(page)
    result = PageResult(
        page=page,
        status=PageStatus.BLANK,
        dpi=round(seen.dpi, 2),
        geometry=seen.geometry,
        own_text=seen.own_text,
    )
    if seen.bitmap is not None:
        result = _read(result, seen.bitmap, engine, deadline)
        if result.doubtful:
            result = _read_otherwise(result, seen, engine, deadline)
        result = _beside_own_text(without_repetitions(result, seen.own_words))
        # An earlier layer does not go for nothing.
        result = replace(result, status=PageStatus.READ, replaces_layer=seen.replaces_layer and bool(result.words))
    if result.own_text and not result.words:
        result = replace(PageResult.because(page, PageStatus.KEPT, "has_text"), own_text=result.own_text)
    # Nothing, or nothing that the engine believes in, may be the noise of a broken image. What it does believe in may
    # be half of what stands there.
    fault = renderer.fault(page, thorough=not result.words or result.doubtful)
    return result if fault is None else result.damaged(fault)


def _beside_own_text(result: PageResult) -> PageResult:
    """Drop what was read with little confidence in the pictures of a page that is mostly text already."""
    if sum(len(word.text) for word in result.words) > len(result.own_text):
        return result
    kept = [index for index, word in enumerate(result.words) if word.confidence >= _NOISE]
    return replace(
        result,
        words=tuple(result.words[index] for index in kept),
        in_file=tuple(kept.index(index) for index in result.in_file if index in kept),
    )


def _turning_the_page(result: PageResult) -> PageResult:
    """Only where what was read proves it."""
    if result.geometry is None or not result.words or result.doubtful:
        return result
    return replace(result, turns_page=-result.geometry.orientation % 360)


def _read(result: PageResult, bitmap: Bitmap, engine: OcrEngine, deadline: float) -> PageResult:
    return replace(result, words=tuple(engine.recognise(bitmap, timeout_s=deadline - time.monotonic())))


def _read_otherwise(first: PageResult, seen: RenderedPage, engine: OcrEngine, deadline: float) -> PageResult:
    """Read a page again whose words are doubtful: upside down, and where that may be, sideways. The best one counts."""
    readings = [first]
    for turned in (180,) if seen.axis_sure else (180, 90, 270):
        bitmap, geometry = _turned(seen, turned)
        with suppress(RecognitionFailed):
            readings.append(_read(replace(first, geometry=geometry), bitmap, engine, deadline))
            if not readings[-1].doubtful:
                break
    return max(readings, key=_believable_letters)


def _turned(seen: RenderedPage, orientation: int) -> tuple[Bitmap, Geometry]:
    assert seen.bitmap is not None
    size = (seen.bitmap.width, seen.bitmap.height)
    image = turn(Image.frombuffer("L", size, seen.bitmap.pixels, "raw", "L", seen.bitmap.stride, 1), orientation)
    geometry = replace(seen.geometry, orientation=(seen.geometry.orientation + orientation) % 360)
    return Bitmap(image.width, image.height, image.width, image.tobytes(), seen.bitmap.dpi), geometry


def _believable_letters(result: PageResult) -> int:
    return sum(len(word.text) for word in result.words if word.confidence >= _BELIEVABLE_WORD)
