"""What a page can be: each status with its reasons, and a sentence for each."""

from __future__ import annotations

import pytest

from tasks.engines import Word
from tasks.page_results import REASONS, PageResult, PageStatus, sentence

DETAILS = {"times": 2, "detail": "a form draws itself", "seconds": 120.0}


def words(*confidences: float) -> tuple[Word, ...]:
    return tuple(Word("word", 0, 0, 9, 9, confidence, 0) for confidence in confidences)


def test_a_page_that_was_damaged_unreadable_or_missing_is_a_reservation() -> None:
    """COMPLETED means that every page was read, kept or blank."""
    assert [status for status in PageStatus if not status.reservation] == ["read", "kept", "blank"]


def test_every_reservation_has_a_reason() -> None:
    """Nobody is told that something is wrong without being told what."""
    explained = {status for reason in REASONS.values() for status in reason.statuses}
    assert {status for status in PageStatus if status.reservation} <= explained


@pytest.mark.parametrize("slug", REASONS)
def test_every_reason_is_one_sentence_about_the_page(slug: str) -> None:
    """With its details in place."""
    for status in REASONS[slug].statuses:
        said = sentence(3, status, slug, **DETAILS)
        assert said.startswith("Page 3 ")
        assert said.endswith(".")
        assert "{" not in said


def test_a_reason_does_not_go_with_any_status() -> None:
    """A page without a visible area cannot have been read in part."""
    with pytest.raises(ValueError):
        sentence(3, PageStatus.DAMAGED, "no_area")


def test_a_page_that_lost_an_image_keeps_what_is_left() -> None:
    """It is damaged, and says so."""
    result = PageResult(page=3, status=PageStatus.READ, words=words(90)).damaged("image_incomplete")
    assert (result.status, result.words) == (PageStatus.DAMAGED, words(90))
    assert result.message == "Page 3 has an image that ends too early; what is left of it was read."


@pytest.mark.parametrize("left", [(), words(20, 30)], ids=["nothing", "noise"])
def test_a_page_with_nothing_left_is_unreadable(left: tuple[Word, ...]) -> None:
    """What is read in the noise of a broken image is no text."""
    result = PageResult(page=3, status=PageStatus.READ, words=left).damaged("image_undecodable")
    assert (result.status, result.words) == (PageStatus.UNREADABLE, ())
    assert result.message == "Page 3 has an image that cannot be decoded."


def test_words_that_the_engine_does_not_believe_in_are_doubtful() -> None:
    """They are kept, with a mark."""
    noise = PageResult(page=1, status=PageStatus.READ, words=words(20, 40))
    print_ = PageResult(page=1, status=PageStatus.READ, words=words(90, 96))
    assert (noise.confidence, noise.doubtful) == (30, True)
    assert (print_.confidence, print_.doubtful) == (93, False)
    assert PageResult(page=1, status=PageStatus.BLANK).doubtful is False


def test_results_of_an_earlier_version_are_read() -> None:
    """A job that is merged after an upgrade has chunks from before it."""
    record = PageResult(page=1, status=PageStatus.READ).to_dict() | {"status": "recognised"}
    del record["reason"]
    assert PageResult.from_dict(record).status is PageStatus.READ
