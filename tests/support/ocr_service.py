"""The OCR service's own processes on servers of a test: what a person submits, a real worker reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery

from celery_progress_ext import CeleryProgress
from tasks.documents import DocumentStore
from tests.support import objects
from tests.support.processes import ROOT, WorkerProcess

MODULE = "tests.support.counted_pages"

_SUBMIT = """
import json, sys
from pathlib import Path
from tests.support import objects
objects.register()
from tasks import pipeline
options = pipeline.options_from(json.loads(sys.argv[2]))
print(pipeline.submit(Path(sys.argv[1]), matter_id="m", filename="in.pdf", options=options).id)
"""


@dataclass
class OcrService:
    """Where the parts of one service are, and this process's own view of its rows and files."""

    env: dict[str, str]
    folder: Path

    def __post_init__(self) -> None:
        objects.register()
        self.app = Celery("ocr-tests", broker=self.env["CELERY_BROKER_URL"], set_as_current=False)
        self.app.conf.update(
            result_backend=self.env["CELERY_RESULT_BACKEND"], progress_database_url=self.env["PROGRESS_DATABASE_URL"]
        )
        self.progress = CeleryProgress(self.app)
        self.progress.migrate()
        self.store = DocumentStore(self.env["DOCUMENTS_URL"])

    @classmethod
    def on(cls, redis_url: str, database_url: str, folder: Path, **env: str) -> OcrService:
        """A service whose leases are short enough that a fault is healed within a test."""
        given = {
            "CELERY_BROKER_URL": redis_url,
            "CELERY_RESULT_BACKEND": redis_url,
            "PROGRESS_DATABASE_URL": database_url,
            "PROGRESS_LEASE_SECONDS": "2",
            "PROGRESS_TICK_SECONDS": "0.5",
            "DOCUMENTS_URL": (folder / "documents").as_uri(),
            "PAGES_LOG": str(folder / "pages.log"),
            "OMP_THREAD_LIMIT": "1",
            **env,
        }
        return cls(given, folder)

    def start_worker(self, worker: Callable[..., WorkerProcess], concurrency: int = 1) -> WorkerProcess:
        """A worker, and beat, so that the reconciler runs."""
        beat = ["-B", "--schedule", str(self.folder / "beat")]
        return worker(MODULE, env=self.env, args=beat, concurrency=concurrency)

    def submit(self, path: Path, **options: str) -> str:
        """Hand a document in, in a process of its own; the job's id."""
        argv = [sys.executable, "-c", _SUBMIT, str(path), json.dumps(options)]
        env = {**os.environ, **self.env, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def begun(self) -> list[tuple[int, int]]:
        """The pages that a worker began to read, in order, each with its process; one may be there twice."""
        path = Path(self.env["PAGES_LOG"])
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(page), int(process)) for page, process in map(str.split, lines)]

    def read_again(self) -> int:
        """How many readings were more than one of a page."""
        return sum(times - 1 for times in Counter(page for page, _ in self.begun()).values())

    def result(self, job_id: str) -> dict[str, Any]:
        """``result.json`` of a job."""
        file, _ = self.store.open_output(job_id, "json")
        with file:
            found: dict[str, Any] = json.load(file)
        return found

    def close(self) -> None:
        """Close this process's connections."""
        self.progress.database.dispose()
        self.app.close()
