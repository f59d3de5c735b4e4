"""How long a task may take before it is interrupted, and before it is killed."""

from __future__ import annotations

from typing import NamedTuple

#: Opening the original (which may have to come from an object store), starting the engine, writing the results.
_AROUND_SECONDS = 120
#: To find out why a page shows nothing, after its own time.
_INSPECT_SECONDS = 10
_MERGE_SECONDS, _MERGE_SECONDS_PER_PAGE = 600, 0.25
#: From the interruption to the kill.
_GRACE_SECONDS = 30


class TimeLimits(NamedTuple):
    """Seconds: ``soft`` interrupts the task with an exception, ``hard`` kills its process."""

    soft: int
    hard: int


def chunk_time_limits(pages: int, page_timeout: float) -> TimeLimits:
    """Enough for a chunk in which every page takes all of its time."""
    soft = _AROUND_SECONDS + round(pages * (page_timeout + _INSPECT_SECONDS))
    return TimeLimits(soft, soft + _GRACE_SECONDS)


def merge_seconds(pages: int) -> float:
    """What merging a document may take; 5,000 pages were measured at a few seconds."""
    return _MERGE_SECONDS + _MERGE_SECONDS_PER_PAGE * pages


def merge_time_limits(pages: int) -> TimeLimits:
    """Enough for a merge that takes all of its time, and for publishing the outputs."""
    soft = _AROUND_SECONDS + round(merge_seconds(pages))
    return TimeLimits(soft, soft + _GRACE_SECONDS)
