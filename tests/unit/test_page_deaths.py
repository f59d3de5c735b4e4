"""Which page an attempt died of, by the pages that attempts began with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.files import Files
from tasks.page_deaths import PageDeaths, deaths, most_deaths


@pytest.mark.parametrize(
    ("began_with", "attempt", "page", "expected"),
    [
        ({}, 1, 1, 0),
        ({1: 1}, 2, 1, 1),
        ({1: 1, 2: 1}, 3, 1, 2),
        # The first attempt had read six pages before it died of the seventh.
        ({1: 1}, 2, 7, 1),
        ({1: 1, 2: 7}, 3, 7, 2),
        # Each died of another page.
        ({1: 1, 2: 4, 3: 7}, 4, 9, 1),
        # The second attempt raised an exception: it did not die.
        ({1: 1, 3: 1}, 4, 1, 1),
        ({1: 1}, 3, 1, 0),
    ],
)
def test_deaths(began_with: dict[int, int], attempt: int, page: int, expected: int) -> None:
    """Only attempts in a row count, and only while they got no further."""
    assert deaths(began_with, attempt, page) == expected


def test_a_chunk_has_an_attempt_left_to_go_on_with() -> None:
    """Whatever the number of attempts, a page is not given up before it ended one process."""
    assert [most_deaths(attempts) for attempts in (1, 2, 3, 9)] == [1, 1, 2, 2]


def test_notes(tmp_path: Path) -> None:
    """A note stays behind a process that died; an exception takes it back, another run does not look at it, and the end
    of the chunk removes all.
    """
    found = PageDeaths(Files(tmp_path.as_uri()))

    # A process that dies does not leave the block; nor does what is kept here.
    begun = []

    def died(attempt: int, page: int, run: int = 1) -> int:
        begun.append(found.reading("job", 0, run=run, attempt=attempt, page=page))
        return begun[-1].__enter__()

    def raised(attempt: int, page: int) -> None:
        with found.reading("job", 0, run=1, attempt=attempt, page=page):
            raise OSError

    assert [died(1, 5), died(2, 5), died(3, 5)] == [0, 1, 2]
    with pytest.raises(OSError):
        raised(4, 5)
    assert died(5, 5) == 0
    assert died(6, 5, run=2) == 0
    with found.reading("job", 0, run=2, attempt=7, page=5) as count:
        assert count == 1
    assert list((tmp_path / "jobs/job/pages/0").iterdir()) == []
