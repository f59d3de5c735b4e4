"""The page over real parts without a worker: a served application, and documents in every state, made as rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

from celery_progress_ext import CeleryProgress, JobStatus, ids
from celery_progress_ext.storage import job_changes
from tests.support.rows import Rows
from tests.support.web_service import MATTER, Service

#: The states that a document can be in, as the rows are made here; the page shows each.
STATES = ("waiting", "running", "stalled", "merging", "done", "partial", "failed", "cancelled")


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        """Nothing: the application logs what there is."""


@contextmanager
def served(service: Service) -> Iterator[str]:
    """The address of the application, served by threads of this process."""
    server = make_server("127.0.0.1", 0, service.app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


class Documents:
    """Makes documents of matter m1 in any state, and moves them on."""

    def __init__(self, progress: CeleryProgress) -> None:
        self.progress = progress
        self.rows = Rows(progress.database.url, migrated=False)

    def make(self, title: str, chunks: int = 6, pages: int = 5) -> str:
        """A document that waits; its job's id. The document's own is ``doc_`` and that."""
        job_id = ids.new_job_id()
        new = Rows.new_job(job_id, chunks, pages=pages, document_id=f"doc_{job_id}")
        new = replace(new, matter_id=MATTER, title=title, metadata={"filename": title})
        assert self.rows.database.write(lambda conn: job_changes.create(conn, new, due=3600.0)) is not None
        return job_id

    def bring_to(self, state: str, title: str | None = None) -> str:
        """A document of six chunks in one of ``STATES``; its job's id."""
        rows, job_id = self.rows, self.make(title or f"{state}.pdf")
        if state == "waiting":
            return job_id
        for index in range(3):
            self.rows.start(job_id, index, worker=f"host:{41 + index % 2}:place.1")
        rows.complete(job_id, 0)
        rows.progress(job_id, 1, attempt=1, done=2)
        if state == "stalled":
            rows.start(job_id, 3, lease=-1.0, worker="host:43:place.1")
        if state == "cancelled":
            rows.end(job_id)
        if state == "failed":
            rows.end(job_id, JobStatus.FAILED)
        if state in ("merging", "done", "partial"):
            self._finish(job_id, state)
        return job_id

    def _finish(self, job_id: str, state: str) -> None:
        rows = self.rows
        rows.lose(job_id, 2)
        for index in range(1, 6):
            if index > 1:
                rows.start(job_id, index, worker="host:42:place.1")
            if state == "partial" and index == 4:
                rows.fail(job_id, index, error="the scan is cut off <b>here</b>")
            else:
                if state == "partial" and index == 5:
                    rows.reserve(job_id, index, attempt=1, pages={27: "Page 27 is damaged: its image is cut off."})
                rows.complete(job_id, index, dispatch=2 if index == 2 else 1)
        attempt = rows.claim(job_id, worker="host:41:place.1").body_attempt
        if state != "merging":
            rows.finish(job_id, attempt)

    def move(self, job_id: str, change: Callable[[Rows], Any]) -> None:
        """Change a job and broadcast it, as the recorder does."""
        change(self.rows)
        self.progress.broadcaster.publish(self.rows.jobs.snapshot(job_id))

    def close(self) -> None:
        """Close this side's connections."""
        self.rows.database.dispose()
