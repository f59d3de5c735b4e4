"""A chunk: a range of pages, or of any other unit, worked on by one task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class ChunkStatus(StrEnum):
    """Where a chunk stands. ``COMPLETED`` is final; a ``FAILED`` chunk may still succeed late or be retried."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        """Whether the merge need not wait for this chunk any more."""
        return self not in UNFINISHED


#: Chunks that the merge waits for.
UNFINISHED = frozenset({ChunkStatus.PENDING, ChunkStatus.PROCESSING})


#: What a report may do to a chunk: the new status, and the statuses it may come from.
#: A report from any other status takes no effect, so it can come twice, late or never.
CHUNK_TRANSITIONS: Mapping[ChunkStatus, frozenset[ChunkStatus]] = MappingProxyType(
    {
        # Started, or started again by a redelivery or after its worker was lost.
        ChunkStatus.PROCESSING: frozenset({ChunkStatus.PENDING, ChunkStatus.PROCESSING}),
        # A late success wins over a failure (facts of Celery: a hard limit can report a failure
        # although the result was stored); a second success changes nothing.
        ChunkStatus.COMPLETED: frozenset({ChunkStatus.PENDING, ChunkStatus.PROCESSING, ChunkStatus.FAILED}),
        ChunkStatus.FAILED: frozenset({ChunkStatus.PENDING, ChunkStatus.PROCESSING}),
        # Sent back to the queue: lost by its worker or broker, retried by its task, by a person, or cancelled.
        ChunkStatus.PENDING: frozenset({ChunkStatus.PENDING, ChunkStatus.PROCESSING, ChunkStatus.FAILED}),
    }
)


@dataclass(frozen=True, kw_only=True)
class ChunkProgress:
    """How many chunks of a job stand where. The four counts add up to ``total``."""

    total: int
    pending: int
    processing: int
    completed: int
    failed: int

    @property
    def progress_pct(self) -> int:
        """``int(completed / total * 100)``: failed chunks are not done, and nothing is rounded up to done."""
        return percent(self.completed, self.total)

    @property
    def settled(self) -> bool:
        """Whether every chunk is terminal, so that the merge may begin."""
        return self.total > 0 and self.completed + self.failed == self.total

    def to_dict(self) -> dict[str, int]:
        """The counts as on the wire."""
        return {
            "total": self.total,
            "pending": self.pending,
            "processing": self.processing,
            "completed": self.completed,
            "failed": self.failed,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """One chunk's range. ``index`` counts from 0; ``page_start`` and ``page_end`` as the user does, both inclusive.

    :ivar size: how many units it has; None for as many as its range.
    """

    index: int
    page_start: int
    page_end: int
    size: int | None = None

    @property
    def pages(self) -> int:
        """How many units the chunk has."""
        return self.page_end - self.page_start + 1 if self.size is None else self.size


def percent(completed: int, total: int) -> int:
    """``int(completed / total * 100)``, 0 for nothing to do; in integers, so that 29/100 is not 28."""
    return completed * 100 // total if total > 0 else 0


def format_chunk_failure_message(
    chunk_index: int, page_start: int, page_end: int, error_message: str, unit: str = "pages"
) -> str:
    """Name a failed chunk to a person: ``Chunk 5 (pages 101-125) failed: Document AI timeout``.

    ``chunk_index`` counts from 0, the message from 1, and the range as its user does.
    """
    return f"Chunk {chunk_index + 1} ({unit} {page_start}-{page_end}) failed: {error_message}"


def failure_message(
    chunk_index: int, page_start: int, page_end: int, error: str, *, unit: str, ranged: bool, alone: bool
) -> str:
    """:func:`format_chunk_failure_message` for any job: ``Chunk 5 failed: …`` where it has no range, and
    ``The task failed: …`` where it is one task alone.
    """
    if alone:
        return f"The task failed: {error}"
    if not ranged:
        return f"Chunk {chunk_index + 1} failed: {error}"
    return format_chunk_failure_message(chunk_index, page_start, page_end, error, unit)
