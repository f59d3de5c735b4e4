"""``python -m tasks submit``: hand a document to a running service, and follow it to its end."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from celery_progress_ext.jobs import JobSnapshot
from celery_progress_ext.terminal import Display, display_for
from celery_progress_ext.wording import printable
from tasks import exit_codes
from tasks.cli.services import Service, ServiceError, Target, open_service

#: Small chunks, so that a few pages show how a bar moves.
_SAMPLE_PAGES, _SAMPLE_CHUNK_PAGES = 24, "3"
SAMPLE_NAME = "sample-scan.pdf"


def submit(
    source: Path | None,
    *,
    target: Target,
    matter_id: str,
    options: Mapping[str, str | None],
    watch: bool,
    outputs: Mapping[str, Path],
    as_json: bool,
) -> int:
    """Submit ``source``, or the sample scan where there is none. Returns an exit code of ``tasks.exit_codes``.

    :param options: by the names in ``tasks.options.OPTIONS``.
    :param watch: follow it to its end; else the job's id is printed and that is all.
    :param outputs: suffix of a result → where to write it; what is to be written is followed too.
    :param as_json: print each snapshot, an object a line, in place of a bar or lines.
    """
    try:
        if complaint := _complaint(source, outputs):
            raise ServiceError(complaint, exit_codes.USAGE)
        with open_service(target) as service, _document(source) as (path, filename):
            given = options if source is not None else {"chunk_pages": _SAMPLE_CHUNK_PAGES, **options}
            if not watch and not outputs:
                print(service.submit(path, filename=filename, matter_id=matter_id, options=given), flush=True)
                return 0
            snapshot = _follow(service, path, filename, matter_id, given, as_json)
            _save(service, snapshot, outputs)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    if not as_json:
        print(printable(summary(snapshot, outputs.values())), flush=True)
    return exit_codes.BY_STATUS[snapshot.status]


def summary(snapshot: JobSnapshot, written: Iterable[Path]) -> str:
    """How a job ended, in a line."""
    if snapshot.status not in exit_codes.HAS_OUTPUT:
        pages = f"{snapshot.pages_done} of {snapshot.pages_total} {snapshot.unit} were read"
        return f"{snapshot.status.capitalize()}: {snapshot.error or pages}; nothing was written"
    seconds = ((snapshot.finished_at or snapshot.created_at) - snapshot.created_at).total_seconds()
    paths = ", ".join(map(str, written))
    pages = f"{snapshot.pages_done} of {snapshot.pages_total} {snapshot.unit}"
    return f"{snapshot.status.capitalize()}: {pages} in {seconds:.1f} s" + (f", written to {paths}" if paths else "")


def _complaint(source: Path | None, outputs: Mapping[str, Path]) -> str | None:
    """What is wrong with the paths, before anything is sent; None when nothing is."""
    if source is not None and not source.is_file():
        return f"{source} is not a file."
    for path in outputs.values():
        if path.is_dir():
            return f"{path} is a directory."
        if not path.absolute().parent.is_dir():
            return f"{path.absolute().parent} is not a directory."
    return None


@contextmanager
def _document(source: Path | None) -> Iterator[tuple[Path, str]]:
    if source is not None:
        yield source, source.name
        return
    from tasks.sample import make_sample

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SAMPLE_NAME
        make_sample(path, pages=_SAMPLE_PAGES)
        yield path, SAMPLE_NAME


def _follow(
    service: Service, path: Path, filename: str, matter_id: str, options: Mapping[str, str | None], as_json: bool
) -> JobSnapshot:
    display: Display = _JsonLines() if as_json else display_for(sys.stdout, title=filename)
    with display:
        display.step(f"Sending {filename}, which is checked first")
        job_id = service.submit(path, filename=filename, matter_id=matter_id, options=options)
        display.step(f"Accepted as {job_id}")
        snapshot = None
        for snapshot in service.watch(job_id, trouble=display.trouble):
            display.show(snapshot)
    if snapshot is None:
        raise ServiceError(f"Nothing was heard of the job {job_id}.")
    return snapshot


def _save(service: Service, snapshot: JobSnapshot, outputs: Mapping[str, Path]) -> None:
    if snapshot.status not in exit_codes.HAS_OUTPUT:
        return
    for suffix, path in outputs.items():
        try:
            with _replacing(path) as draft:
                service.fetch(snapshot.job_id, suffix, draft)
        except OSError as error:
            raise ServiceError(f"{path} cannot be written: {error.strerror}.") from None


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` that takes its place when all is written, and goes away otherwise."""
    draft = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


class _JsonLines:
    """A display for programs: a snapshot a line."""

    def step(self, text: str) -> None:
        """A program gets snapshots alone."""

    def show(self, snapshot: JobSnapshot) -> None:
        """Print it."""
        print(json.dumps(snapshot.to_dict(), ensure_ascii=False), flush=True)

    def trouble(self, text: str | None) -> None:
        """Say it beside the snapshots."""
        if text is not None:
            print(text, file=sys.stderr, flush=True)

    def log(self, line: str) -> None:
        """Say it beside the snapshots."""
        print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held."""
