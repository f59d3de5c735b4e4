"""A page behind documents of many chunks, on the service's own worker: Redis, and RabbitMQ."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import kombu
import pytest
import sqlalchemy as sa

from celery_progress_ext import JobSnapshot
from celery_progress_ext.storage import Database
from celery_progress_ext.storage.migrate import migrate
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.workers import roster
from celery_progress_ext.story import JobTrackingService
from tasks.lanes import LANES, queues
from tasks.sample import make_sample
from tests.support.processes import ROOT, WorkerProcess
from tests.support.waiting import wait_for

#: An engine that takes its time, so that the chunks' number decides and not what a start costs.
_SLOW = """
import time
from tasks.engines import null

def recognise(self, bitmap, *, timeout_s):
    time.sleep(0.25)
    return []

null.NullEngine.recognise = recognise
from tasks.celery_app import app
"""
_CHUNK_PAGES, _GIANT_PAGES, _GIANTS = 2, 24, 4


@pytest.fixture(scope="module")
def pdfs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A document of one page and one of many."""
    folder = tmp_path_factory.mktemp("pdfs")
    made = {"page": folder / "page.pdf", "giant": folder / "giant.pdf"}
    make_sample(made["page"], pages=1)
    make_sample(made["giant"], pages=_GIANT_PAGES)
    return made


@pytest.fixture(params=["redis", "rabbitmq"])
def env(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The service's settings."""
    broker = redis_url if request.param == "redis" else request.getfixturevalue("rabbit_url")
    yield {
        "CELERY_BROKER_URL": broker,
        "CELERY_RESULT_BACKEND": redis_url,
        "PROGRESS_DATABASE_URL": f"sqlite:///{tmp_path}/progress.db",
        "DOCUMENTS_URL": (tmp_path / "documents").as_uri(),
        "OCR_ENGINE": "null",
        "OCR_DPI": "72",
        "OCR_CHUNK_PAGES": str(_CHUNK_PAGES),
    }
    if request.param == "rabbitmq":
        with kombu.Connection(broker) as connection:
            for queue in queues("celery", spread=4):
                connection.default_channel.queue_delete(queue.name)


def _submit(path: Path, env: Mapping[str, str]) -> str:
    argv = [sys.executable, "-m", "tasks", "submit", str(path), "--matter", "m"]
    done = subprocess.run(argv, env={**os.environ, **env}, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_a_page_does_not_wait_for_documents_of_many_chunks(
    env: dict[str, str],
    pdfs: Mapping[str, Path],
    worker: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> None:
    """It is begun when the chunk at work is done, and so is its merge."""
    (tmp_path / "slow_service.py").write_text(_SLOW)
    database = Database(env["PROGRESS_DATABASE_URL"])
    migrate(database)
    jobs = JobTrackingService(database)
    worker("slow_service", env=env, concurrency=1)
    if env["CELERY_BROKER_URL"].startswith("amqp"):
        # RabbitMQ gives a worker the messages of its queues in no particular order.
        worker("slow_service", env=env, concurrency=1, name="lanes", args=["-Q", ",".join(LANES)])
    wait_for(lambda: all(roster(database).listens(lane) for lane in LANES), what="the worker's row")
    giants = [_submit(pdfs["giant"], env) for _ in range(_GIANTS)]
    wait_for(lambda: jobs.snapshot(giants[0]).chunks.completed > 0, what="a giant at work")
    page = _submit(pdfs["page"], env)

    def over(job_id: str) -> JobSnapshot | None:
        snapshot = jobs.snapshot(job_id)
        return snapshot if snapshot.status.terminal else None

    ended = wait_for(lambda: over(page), timeout=60.0, what="the page's job")
    assert ended.status in ("COMPLETED", "PARTIAL")
    waiting = [jobs.snapshot(job_id).chunks.pending for job_id in giants]
    assert min(waiting) > 0
    between = _begun_between(database, giants, ended)
    assert between[0] <= 1
    # Its merge waits once more for the chunk that is at work by then.
    assert between[1] <= 3
    database.dispose()


def _begun_between(database: Database, giants: list[str], page: JobSnapshot) -> tuple[int, int]:
    """How many chunks of the giants were begun after the page came: before it was begun, and before it was done."""
    query = sa.select(chunks.c.started_at).where(
        chunks.c.started_at.is_not(None), chunks.c.started_at > page.created_at.timestamp()
    )
    [begun] = (row.started_at for row in database.rows(query.where(chunks.c.job_id == page.job_id)))
    starts = [row.started_at for row in database.rows(query.where(chunks.c.job_id.in_(giants)))]
    assert page.finished_at is not None
    return sum(start < begun for start in starts), sum(start < page.finished_at.timestamp() for start in starts)
