"""The service that the environment names, without its web: rows, broker and documents are reached from here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from celery_progress_ext import ProgressError
from celery_progress_ext.exceptions import DatabaseAway
from celery_progress_ext.jobs import JobSnapshot
from tasks import exit_codes, pipeline
from tasks.celery_app import progress, settings
from tasks.cli.services import ServiceError
from tasks.documents import DocumentStore
from tasks.options import InvalidOption
from tasks.pdf.preflight import Refused


class LocalService:
    """Hands documents in and follows them as the web process does."""

    def submit(self, path: Path, *, filename: str, matter_id: str, options: Mapping[str, str | None]) -> str:
        """Hand in a document; its job's id."""
        try:
            chosen = pipeline.options_from(options)
            return str(pipeline.submit(path, matter_id=matter_id, filename=filename, options=chosen).id)
        except Refused as refusal:
            raise ServiceError(refusal.message, exit_codes.REFUSED) from None
        except InvalidOption as error:
            raise ServiceError(error.message, exit_codes.USAGE) from None
        except DatabaseAway as error:
            # The rows come first: without the database there is no job. A broker that is away is only warned of.
            raise ServiceError(f"The database does not answer, so there is no job: {error}") from None
        except (ProgressError, OSError) as error:
            raise ServiceError(str(error)) from None

    def watch(self, job_id: str, *, trouble: Callable[[str | None], None]) -> Iterator[JobSnapshot]:
        """Its snapshots, to the terminal one."""
        try:
            yield from progress.watch(job_id)
        except ProgressError as error:
            raise ServiceError(f"The job {job_id} goes on, but cannot be followed: {error}") from None

    def fetch(self, job_id: str, suffix: str, target: Path) -> None:
        """Write a result to ``target``."""
        store = DocumentStore(settings.documents_url, files_group=settings.files_group)
        try:
            source, _size = store.open_output(job_id, suffix)
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
        except OSError as error:
            raise ServiceError(f"The result of {job_id} cannot be fetched: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        progress.database.dispose()
