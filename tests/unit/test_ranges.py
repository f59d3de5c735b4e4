"""A range is what its user says it is: any numbers, with gaps, in any order; only what is counted twice is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_progress_ext.canvas import _chunks, _range
from celery_progress_ext.chunks import failure_message
from celery_progress_ext.exceptions import InvalidCanvas

_LARGE = 2**62
_numbers = st.integers(-_LARGE, _LARGE)
_units = st.text(st.characters(categories=("L", "Nd")), min_size=1, max_size=32)


@st.composite
def _disjoint(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Ranges without a common number, in any order."""
    ends = draw(st.lists(_numbers, min_size=2, max_size=40, unique=True).map(sorted))
    pairs = list(zip(ends[::2], ends[1::2], strict=False))
    return draw(st.permutations(pairs))


@given(_disjoint())
def test_the_total_is_the_sum_of_what_the_ranges_hold(ranges: list[tuple[int, int]]) -> None:
    """Whatever is between them, in the order of the header, and under the numbers that were given."""
    chunks = _chunks([_range(index, each) for index, each in enumerate(ranges)], None, len(ranges))
    assert [(chunk.index, chunk.page_start, chunk.page_end) for chunk in chunks] == [
        (index, first, last) for index, (first, last) in enumerate(ranges)
    ]
    assert [chunk.pages for chunk in chunks] == [last - first + 1 for first, last in ranges]


@given(_disjoint(), st.data())
def test_what_is_in_two_ranges_is_refused(ranges: list[tuple[int, int]], data: st.DataObject) -> None:
    """It would be counted twice; the sentence names both."""
    index = data.draw(st.integers(0, len(ranges) - 1))
    first, last = ranges[index]
    shared = data.draw(st.integers(first, last))
    other = (shared, min(_LARGE, shared + data.draw(st.integers(0, 10))))
    with pytest.raises(InvalidCanvas, match=r"overlap: .*counted twice"):
        _chunks([[*each] for each in [*ranges, other]], None, len(ranges) + 1)


@given(st.integers(-100, 100), st.integers(1, 100), st.sampled_from([1, -1]))
def test_pythons_own_ranges(first: int, size: int, step: int) -> None:
    """Forwards and backwards: their numbers are what counts."""
    given_range = range(first, first + step * size, step)
    assert _range(0, given_range) == [min(given_range), max(given_range)]


@given(st.one_of(st.none(), st.text(), st.floats(), st.lists(st.floats(), max_size=4), st.tuples(_numbers, st.text())))
def test_anything_else_gets_a_sentence(given_range: object) -> None:
    """Never another error."""
    with pytest.raises(InvalidCanvas, match=r"^Range 3 must be two whole numbers"):
        _range(3, given_range)


@given(st.integers(0, 10**6), _numbers, _numbers, _units)
def test_a_failure_is_named_in_the_users_numbers_and_unit(index: int, first: int, last: int, unit: str) -> None:
    """Chunks count from 1; without a range the number alone; a task alone has none."""

    def say(**how: bool) -> str:
        return failure_message(index, first, last, "boom", unit=unit, **{"ranged": True, "alone": False, **how})

    assert say() == f"Chunk {index + 1} ({unit} {first}-{last}) failed: boom"
    assert say(ranged=False) == f"Chunk {index + 1} failed: boom"
    assert not re.search(r"\d", say(alone=True))
