"""What retention forgets: rows in bounded bites, whoever listens, and the service's files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from structlog.testing import capture_logs

from celery_progress_ext import CeleryProgress, ForgottenJob, jobs_forgotten
from celery_progress_ext.storage import retention
from tasks import retention as tasks_retention
from tasks.documents import DocumentStore
from tests.support.processes import ROOT
from tests.support.rows import Rows


class Service:
    """The service's retention on real rows and real files."""

    def __init__(self, url: str, folder: Path) -> None:
        self.rows = Rows(url)
        self.folder = folder
        self.store = DocumentStore(folder.as_uri())
        self.app = Celery("service", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.app.conf.progress_database_url = url
        self.progress = CeleryProgress(self.app)
        tasks_retention.connect(self.app, self.progress, folder.as_uri())

    def job(self, document_id: str) -> str:
        """A job that ended, with its original, a chunk's results and an output."""
        job_id = self.rows.create(1, document_id=document_id)
        self.rows.end(job_id)
        source = self.folder.parent / "source"
        source.write_text("%PDF")
        if document_id.isalnum():
            self.store.put_original(document_id, source)
        self.store.pages.write_chunk(job_id, 0, 1, [])
        self.store.publish_outputs(job_id, 1, {"pdf": source})
        return job_id

    def age(self, *job_ids: str) -> None:
        """As if they had ended long ago."""
        with self.rows.database.engine.begin() as conn:
            for job_id in job_ids:
                conn.exec_driver_sql(f"UPDATE processing_jobs SET finished_at = 1 WHERE id = '{job_id}'")

    def forgotten(self) -> int:
        """How many jobs a tick forgets."""
        return self.progress.reconciler.tick()["forget"]

    def files(self) -> set[str]:
        """What is left, as jobs/… and documents/…."""
        return {str(path.relative_to(self.folder)) for path in self.folder.glob("*/*")}

    def close(self) -> None:
        self.progress.database.dispose()
        self.rows.database.dispose()
        self.app.close()


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    made = Service(database_url, tmp_path / "documents")
    yield made
    made.close()


def test_a_forgotten_job_takes_its_files_along(service: Service) -> None:
    """Results, outputs and the original; those of a job that is kept stay."""
    old, kept = service.job("d1"), service.job("d2")
    service.age(old)
    assert service.forgotten() == 1
    assert service.files() == {f"jobs/{kept}", "documents/d2"}


def test_an_original_stays_as_long_as_a_job_needs_it(service: Service) -> None:
    """It goes with the last job of its document."""
    first, second = service.job("d1"), service.job("d1")
    service.age(first)
    assert service.forgotten() == 1
    assert service.files() == {f"jobs/{second}", "documents/d1"}
    service.age(second)
    assert service.forgotten() == 1
    assert service.files() == set()


def test_two_jobs_of_a_document_forgotten_at_once_leave_nothing(service: Service) -> None:
    """Neither counts as the one that still needs the original."""
    service.age(service.job("d1"), service.job("d1"))
    assert service.forgotten() == 2
    assert service.files() == set()


def test_a_file_that_can_not_be_deleted_is_told(service: Service) -> None:
    """The others go, and so does the tick; here the document's id was never one of the store's."""
    bad, good = service.job("not/ours"), service.job("d1")
    service.age(bad, good)
    with capture_logs() as logs:
        assert service.forgotten() == 2
    [line] = [line for line in logs if line["log_level"] != "info"]
    assert (line["event"], line["job_id"]) == ("files_left_behind", bad)
    assert service.files() == set()


def test_whoever_listens_is_told_after_the_commit(service: Service) -> None:
    """Once, with the ids; what a listener raises stops neither the tick nor the other listeners."""
    told: list[tuple[ForgottenJob, ...]] = []

    def fails(**_: Any) -> None:
        raise OSError("the listener's own trouble")

    def listens(sender: Celery, jobs: tuple[ForgottenJob, ...], **_: Any) -> None:
        assert sender is service.app
        assert service.rows.jobs.latest_for_document("d1") is None
        told.append(jobs)

    jobs_forgotten.connect(fails, sender=service.app)
    jobs_forgotten.connect(listens, sender=service.app)
    job_id = service.job("d1")
    service.age(job_id)
    assert [service.forgotten() for _ in range(2)] == [1, 0]
    assert told == [(ForgottenJob(job_id=job_id, matter_id="m", document_id="d1"),)]
    assert service.files() == set()


def test_a_tick_deletes_a_bounded_number_of_rows(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million rows that are due at once go over many ticks, and a job larger than the bound goes too."""
    jobs = [service.rows.create(20) for _ in range(3)]
    for job_id in jobs:
        service.rows.end(job_id)
    service.age(*jobs)
    monkeypatch.setattr(retention, "ROWS", 15)
    assert [service.forgotten() for _ in range(4)] == [1, 1, 1, 0]


def test_a_job_retried_meanwhile_is_not_forgotten(service: Service) -> None:
    """It was due when the tick looked, and is at work again when it would be deleted."""
    jobs = [service.job("d1"), service.job("d2")]
    service.age(*jobs)
    forgetting = retention.expire(service.rows.database, days=30)
    first = next(forgetting)
    [other] = set(jobs) - {first.job_id}
    service.rows.reopen(other)
    assert list(forgetting) == []
    assert service.rows.jobs.snapshot(other).chunks.total == 1


def test_the_service_s_own_tick_deletes_files(sqlite_url: str, tmp_path: Path) -> None:
    """Where beat runs, nothing but the app is imported; that is enough."""
    service = Service(sqlite_url, tmp_path / "documents")
    service.age(service.job("d1"))
    environ = {**os.environ, "PROGRESS_DATABASE_URL": sqlite_url, "DOCUMENTS_URL": service.folder.as_uri()}
    environ |= {"CELERY_BROKER_URL": "memory://", "CELERY_RESULT_BACKEND": "cache+memory://"}
    code = "from tasks.celery_app import progress; progress.reconciler.tick()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, check=True, timeout=60)
    assert service.files() == set()
    service.close()
