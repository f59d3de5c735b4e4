"""What can go wrong, one class per thing a caller would handle differently.

The docstring of a class is its default message, so that an error raised bare still says what to do.
"""

from __future__ import annotations


class ProgressError(Exception):
    """Tracking a job failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class JobNotFound(ProgressError):
    """There is no job with this id."""


class ChunkNotFound(ProgressError):
    """There is no chunk with this id."""


class IllegalTransition(ProgressError):
    """The job is in a state that does not allow this; look at its status and try again."""


class InvalidCanvas(ProgressError):
    """The header or the body cannot be tracked; give a non-empty list of task signatures and a task as body."""


class NotPublished(ProgressError):
    """The job's messages cannot be sent as they are; the job is FAILED: fix what the cause names, then retry it.

    :ivar job_id: the job.
    """

    def __init__(self, message: str | None = None, *, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class DatabaseError(ProgressError):
    """The database refused a statement; the cause is its own error.

    :ivar orig: the driver's error.
    """

    def __init__(self, message: str | None = None, *, orig: BaseException | None = None) -> None:
        super().__init__(message)
        self.orig = orig


class DatabaseAway(DatabaseError):
    """The database does not answer, is locked or shuts down; try again later."""


class DatabaseNotMigrated(ProgressError):
    """The progress tables are missing or old; run `celery -A APP progress migrate`."""


class MissingExtra(ProgressError):
    """An optional dependency is missing; install the extra that the message names."""


class InvalidSetting(ProgressError):
    """A progress_* setting has a value that cannot be used."""


class InvalidToken(ProgressError):
    """This token is not valid here; ask for a new one."""


class NotConfigured(ProgressError):
    """No CeleryProgress has been set up in this process; call CeleryProgress(app) next to your Celery app."""


#: Errors of Celery whose own text is no sentence; by name, since this module imports nothing.
_SENTENCES = {
    "SoftTimeLimitExceeded": "it ran longer than its soft time limit{limit}",
    "TimeLimitExceeded": "it ran longer than its time limit{limit}",
}


def describe(error: object) -> str:
    """An error in a line for a person: the first line of its message, or its type where that says more."""
    if not isinstance(error, BaseException):
        return str(error) if error is not None else "unknown error"
    if (sentence := _SENTENCES.get(type(error).__name__)) is not None:
        limit = f" of {error.args[0]:g} s" if error.args and isinstance(error.args[0], int | float) else ""
        return sentence.format(limit=limit)
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    # str(KeyError("x")) is only "'x'".
    return f"{type(error).__name__}: {lines[0]}" if isinstance(error, LookupError) else lines[0]
