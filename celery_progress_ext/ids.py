"""Task ids that say what they belong to, so that a receiver needs no query and an untracked task costs a prefix test.

=====================  ==================================
``job_ab12``           the job; its result is the library's to write
``job_ab12.b1``        the body, sent by Celery's chord
``job_ab12.b2``        the body, sent by the library
``job_ab12.c4``        the row of chunk 4
``job_ab12.c4.1``      chunk 4, sent for the first time
=====================  ==================================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from uuid import uuid4

from celery_progress_ext.exceptions import JobNotFound

_PREFIX = "job_"
#: Characters of a short id, and of the shortest beginning that stands for a job.
_SHORT, _LEAST_PREFIX = 8, 4


@dataclass(frozen=True, slots=True)
class TaskId:
    """A tracked task id taken apart; ``chunk_index`` is None for a body."""

    job_id: str
    chunk_index: int | None
    dispatch: int

    @property
    def chunk_id(self) -> str:
        """The id of the chunk's row."""
        return f"{self.job_id}.c{self.chunk_index}"


def new_job_id() -> str:
    """A job id that nobody can guess."""
    return _PREFIX + uuid4().hex


def short_id(job_id: str) -> str:
    """The beginning of a job's id, for people: enough to name it among a million."""
    return job_id.removeprefix(_PREFIX)[:_SHORT]


def prefixes(text: str) -> tuple[str, ...]:
    """How the id of a job may begin that a person named by its beginning; none for a text that is too short."""
    core = text.removeprefix(_PREFIX)
    return (text, _PREFIX + core) if len(core) >= _LEAST_PREFIX else ()


def chunk_id(job_id: str, index: int) -> str:
    """The id of a chunk's row."""
    return f"{job_id}.c{index}"


def chunk_task_id(job_id: str, index: int, dispatch: int) -> str:
    """The id of the task that works on a chunk, sent for the ``dispatch``-th time (from 1)."""
    return f"{job_id}.c{index}.{dispatch}"


def body_task_id(job_id: str, dispatch: int) -> str:
    """The id of the body's task. Never the job id: Celery stores the ChordError of a failed header under the first
    body's id, and ignores a later result (F22).
    """
    return f"{job_id}.b{dispatch}"


def unknown(job_id: str) -> JobNotFound:
    """The error for an id that no job has, with what may be the reason."""
    said = f"There is no job {job_id!r}."
    task = parse(job_id)
    if task is not None and task.job_id != job_id:
        return JobNotFound(f"{said} It is the id of a task of job {task.job_id!r}.")
    if task is not None:
        return JobNotFound(f"{said} Is progress_database_url that of the process that published it?")
    return JobNotFound(
        f"{said} Ids of jobs begin with {_PREFIX!r}: a job is what tracked_chord, tracked_group or progress.track"
        " published, not any task."
    )


def parse(task_id: str | None) -> TaskId | None:
    """What a task id belongs to; None for a task that is not tracked."""
    return _parse(task_id) if task_id and task_id.startswith(_PREFIX) else None


@lru_cache(maxsize=64)  # a task's receivers ask one after another
def _parse(task_id: str) -> TaskId | None:
    job_id, _, rest = task_id.partition(".")
    try:
        if not rest:
            # A chord that was published before the body had an id of its own.
            return TaskId(job_id, None, 1)
        if rest[0] == "b":
            return TaskId(job_id, None, int(rest[1:]))
        index, _, dispatch = rest[1:].partition(".")
        return TaskId(job_id, int(index), int(dispatch)) if rest[0] == "c" else None
    except ValueError:
        return None
