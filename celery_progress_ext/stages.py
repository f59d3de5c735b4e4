"""The stages of a job, in order. A new stage is one row here and the task that enters it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StageName(StrEnum):
    """The key of a stage, stable for programs; the message is for people."""

    QUEUED = "queued"
    CHUNK_PROCESSING = "chunk_processing"
    MERGE = "merge"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One ordered phase of a job.

    ``message`` is a format string; ``completed`` and ``total`` (chunks) are there to be used.
    """

    name: StageName
    message: str

    def format(self, *, completed: int = 0, total: int = 0) -> str:
        """The stage as a person reads it."""
        return self.message.format(completed=completed, total=total)


PIPELINE_STAGES: tuple[Stage, ...] = (
    Stage(name=StageName.QUEUED, message="Waiting for a worker"),
    Stage(name=StageName.CHUNK_PROCESSING, message="Processing chunk {completed}/{total}"),
    Stage(name=StageName.MERGE, message="Merging OCR results"),
)

_BY_NAME = {stage.name: stage for stage in PIPELINE_STAGES}
_ORDER = {stage.name: place for place, stage in enumerate(PIPELINE_STAGES)}


def stage(name: str) -> Stage:
    """The row of ``PIPELINE_STAGES`` with this name; ``KeyError`` where there is none."""
    return _BY_NAME[StageName(name)]


def earlier(name: str, other: str) -> bool:
    """Whether stage ``name`` comes before stage ``other``."""
    return _ORDER[StageName(name)] < _ORDER[StageName(other)]
