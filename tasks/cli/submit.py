"""``python -m tasks submit``: hand a document to the service that the environment names."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from celery_progress_ext import JobSnapshot, ProgressError
from celery_progress_ext.exceptions import DatabaseAway
from tasks import exit_codes
from tasks.documents import DocumentStore
from tasks.options import InvalidOption, OcrOptions
from tasks.pdf.preflight import Refused
from tasks.presentation import display_for
from tasks.settings import ServiceSettings

#: Small chunks, so that a few pages show how a bar moves.
_SAMPLE_PAGES, _SAMPLE_CHUNK_PAGES = 24, "3"
_SAMPLE_NAME = "sample-scan.pdf"


def submit(
    source: Path | None, *, matter_id: str, options: Mapping[str, str | None], watch: bool, outputs: Mapping[str, Path]
) -> int:
    """Submit ``source``, or the sample scan where there is none. Returns an exit code of ``tasks.exit_codes``.

    :param options: by the names in ``tasks.options.OPTIONS``.
    :param watch: follow it to its end; else the job's id is printed and that is all.
    :param outputs: suffix of a result → where to write it; what is to be written is followed too.
    """
    try:
        return _follow(source, matter_id, options, watch, outputs)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED


def _follow(
    source: Path | None, matter_id: str, options: Mapping[str, str | None], watch: bool, outputs: Mapping[str, Path]
) -> int:
    if source is not None:
        return _submit(source, source.name, matter_id, options, watch, outputs)
    with _sample() as path:
        return _submit(path, _SAMPLE_NAME, matter_id, {"chunk_pages": _SAMPLE_CHUNK_PAGES, **options}, watch, outputs)


@contextmanager
def _sample() -> Iterator[Path]:
    from tasks.sample import make_sample

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _SAMPLE_NAME
        print(f"making a scan of {_SAMPLE_PAGES} pages", flush=True)
        make_sample(path, pages=_SAMPLE_PAGES)
        yield path


def _submit(
    path: Path,
    filename: str,
    matter_id: str,
    options: Mapping[str, str | None],
    watch: bool,
    outputs: Mapping[str, Path],
) -> int:
    if not path.is_file():
        return _fail(f"{path} is not a file.", exit_codes.USAGE)
    try:
        chosen = OcrOptions.parse(options, ServiceSettings.read())
    except InvalidOption as error:
        return _fail(error.message, exit_codes.USAGE)
    # The Celery app connects to what the environment names; a usage error needs none of it.
    from tasks import pipeline

    try:
        job = pipeline.submit(path, matter_id=matter_id, filename=filename, options=chosen)
    except Refused as refusal:
        return _fail(refusal.message, exit_codes.REFUSED)
    except InvalidOption as error:
        return _fail(error.message, exit_codes.USAGE)
    except DatabaseAway as error:
        # The rows come first: without the database there is no job. A broker that is away is only warned of.
        return _fail(f"The database does not answer, so there is no job: {error}", exit_codes.FAILED)
    except ProgressError as error:
        return _fail(str(error), exit_codes.FAILED)
    if not outputs:
        print(job.id, flush=True)
        if not watch:
            return 0
    with display_for(sys.stdout) as display:
        for snapshot in job.watch():
            display.show(snapshot)
    snapshot = job.snapshot()
    if snapshot.status in exit_codes.HAS_OUTPUT:
        settings = ServiceSettings.read()
        _save(DocumentStore(settings.documents_url, files_group=settings.files_group), job.id, outputs)
    print(_summary(snapshot, outputs), flush=True)
    return exit_codes.BY_STATUS[snapshot.status]


def _save(store: DocumentStore, job_id: str, outputs: Mapping[str, Path]) -> None:
    for suffix, path in outputs.items():
        file, _size = store.open_output(job_id, suffix)
        with file, _replacing(path) as draft, draft.open("wb") as target:
            shutil.copyfileobj(file, target)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` that takes its place when all is written, and goes away otherwise."""
    draft = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _summary(snapshot: JobSnapshot, outputs: Mapping[str, Path]) -> str:
    if snapshot.status not in exit_codes.HAS_OUTPUT:
        return f"{snapshot.status.capitalize()}: {snapshot.error or 'no chunk was completed'}"
    seconds = ((snapshot.finished_at or snapshot.created_at) - snapshot.created_at).total_seconds()
    written = f", written to {', '.join(map(str, outputs.values()))}" if outputs else ""
    pages = f"{snapshot.pages_done} of {snapshot.pages_total} {snapshot.unit}"
    return f"{snapshot.status.capitalize()}: {pages} in {seconds:.1f} s{written}"


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
