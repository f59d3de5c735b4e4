"""A page that ends the process which reads it, by its memory or by a fault in a library, is given up by itself.

Each attempt at a chunk notes the page that it begins with, and takes the note back where it ends by an exception. Pages
are stored as they are read, so the page that an attempt began with is the one that the attempt before it died of.

::

    jobs/{job_id}/pages/{chunk}/{run}-{attempt}-{page}.begun
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tasks.files import Files, checked

#: Processes that one page may cost in a run.
_MOST_DEATHS = 2

_NOTE = re.compile(r"(\d+)-(\d+)-(\d+)\.begun")


def most_deaths(max_attempts: int) -> int:
    """After how many deaths a page is given up, so that its chunk has an attempt left to go on with.

    :param max_attempts: the attempts in a row without progress that a chunk has.
    """
    return max(1, min(_MOST_DEATHS, max_attempts - 1))


def deaths(began_with: Mapping[int, int], attempt: int, page: int) -> int:
    """How many attempts in a row before this one died of the page that it begins with.

    :param began_with: the page that each earlier attempt of the run began with, of those that raised nothing.
    """
    count, before = 0, attempt - 1
    while before in began_with:
        count += 1
        if began_with[before] != page:
            # It began with an earlier page, and got as far as this one.
            break
        before -= 1
    return count


class PageDeaths:
    """The notes of a deployment's chunks, under the same URL as their pages."""

    def __init__(self, files: Files) -> None:
        self._files = files

    @contextmanager
    def reading(self, job_id: str, chunk_index: int, *, run: int, attempt: int, page: int) -> Iterator[int]:
        """While an attempt reads pages, ``page`` first; yields how many attempts before it died of that page."""
        folder = f"jobs/{checked(job_id)}/pages/{chunk_index:d}"
        notes = [match for name in self._files.names(folder) if (match := _NOTE.fullmatch(name))]
        began_with = {int(note[2]): int(note[3]) for note in notes if int(note[1]) == run}
        note = f"{folder}/{run:d}-{attempt:d}-{page:d}.begun"
        self._files.put_bytes(b"", note)
        try:
            yield deaths(began_with, attempt, page)
        except BaseException:
            self._files.delete([note])
            raise
        self._files.delete([*(f"{folder}/{each[0]}" for each in notes), note])
