"""Where a document can be handed in: what every such place can do, and which one is meant.

The one at ``--url``; the one that the environment names whole (broker, database and documents); or the `up` that runs
on this machine. Over HTTP nothing of a database, a broker or an engine is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from celery_progress_ext.jobs import JobSnapshot
from tasks import exit_codes
from tasks.cli.running import NotRunning, find

#: With all three an environment names a service; one of them alone may be there for another reason.
_NAMES_A_SERVICE = ("CELERY_BROKER_URL", "PROGRESS_DATABASE_URL", "DOCUMENTS_URL")


class ServiceError(Exception):
    """It went wrong, or was refused; the message is for a person.

    :ivar code: one of ``tasks.exit_codes``.
    """

    def __init__(self, message: str, code: int = exit_codes.FAILED) -> None:
        super().__init__(message)
        self.code = code


class Service(Protocol):
    """A service to hand documents to; a context manager. Each method raises ``ServiceError``."""

    def submit(self, path: Path, *, filename: str, matter_id: str, options: Mapping[str, str | None]) -> str:
        """Hand in a document; its job's id."""

    def watch(self, job_id: str, *, trouble: Callable[[str | None], None]) -> Iterator[JobSnapshot]:
        """Its snapshots, to the terminal one.

        :param trouble: called with a sentence while nothing is heard of the job, and with None once it is.
        """

    def fetch(self, job_id: str, suffix: str, target: Path) -> None:
        """Write a result to ``target``."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Target:
    """Which service is meant, as far as a person said."""

    url: str | None = None
    key: str | None = None
    data_dir: Path | None = None


def open_service(target: Target) -> Service:
    """The service that is meant.

    :raises ServiceError: where there is none.
    """
    if target.url is None and target.data_dir is None and all(os.environ.get(name) for name in _NAMES_A_SERVICE):
        from tasks.cli.local_service import LocalService

        return LocalService()
    from tasks.cli.remote_service import RemoteService

    if target.url is not None:
        if not target.key:
            raise ServiceError("--url needs --key, or the key as OCR_KEY in the environment.", exit_codes.USAGE)
        return RemoteService(target.url, target.key)
    try:
        running = find(target.data_dir)
    except NotRunning as error:
        raise ServiceError(str(error)) from None
    return RemoteService(running.url, running.key, still_there=lambda: running.alive)
