"""The web application over real parts, without a worker: what tests of the HTTP contract ask."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from celery import Celery
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.datastructures import FileStorage
from werkzeug.test import TestResponse, encode_multipart

from celery_progress_ext import CeleryProgress, JobStatus
from tasks import pipeline
from tasks.documents import DocumentStore
from tasks.settings import ServiceSettings
from web import create_app, streams

ONE, ALL = "key-of-m1", "key-of-all"
TOKEN = "start-token"
MATTER = "m1"


@dataclass
class Service:
    """A running web application and what stands behind it."""

    app: Flask
    progress: CeleryProgress
    store: DocumentStore
    settings: ServiceSettings

    def client(self, key: str | None = ALL) -> FlaskClient:
        """A program with a key, or somebody without any."""
        client = self.app.test_client()
        if key is not None:
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
        return client

    def with_settings(self, **changes: object) -> Service:
        """The same parts behind a web application that is set up differently."""
        settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        return Service(create_app(self.progress, settings), self.progress, self.store, settings)


@pytest.fixture
def web_service(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The application over a fresh SQLite database, a real broker and an empty document store."""
    # No worker runs, so results need no server.
    celery = Celery("web-tests", broker=redis_url, backend="cache+memory://", set_as_current=False)
    celery.conf.update(progress_database_url=f"sqlite:///{tmp_path}/progress.db", progress_redis_url=redis_url)
    progress = CeleryProgress(celery)
    progress.migrate()
    settings = ServiceSettings(
        documents_url=(tmp_path / "documents").as_uri(),
        api_keys={ONE: (MATTER,), ALL: ("*",)},
        start_token=f"{TOKEN}-{tmp_path.name}",
        max_upload_mb=1,
        ocr_chunk_pages=1,
    )
    monkeypatch.setattr(pipeline, "app", celery)
    monkeypatch.setattr(pipeline, "progress", progress)
    monkeypatch.setattr(pipeline, "settings", settings)
    made = Service(create_app(progress, settings), progress, DocumentStore(settings.documents_url), settings)
    yield made
    streams.close(made.app)
    progress.database.dispose()
    celery.close()


def post(
    client: FlaskClient,
    content: bytes,
    *,
    filename: str = "scan.pdf",
    matter_id: str | None = MATTER,
    **options: str,
) -> TestResponse:
    """Upload a document."""
    fields: dict[str, object] = {"file": FileStorage(io.BytesIO(content), filename=filename), **options}
    if matter_id is not None:
        fields["matter_id"] = matter_id
    # Encoded here: the test client itself leaves a temporary file open for large bodies.
    boundary, body = encode_multipart(fields)
    return client.post("/api/documents", data=body, content_type=f"multipart/form-data; boundary={boundary}")


def problem(response: TestResponse, status: int) -> dict[str, object]:
    """The problem document of a response, whose form is checked."""
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.content_type == "application/problem+json"
    document: dict[str, object] = json.loads(response.data)
    assert document["status"] == status
    assert {"type", "title", "detail", "instance"} <= document.keys()
    assert "Traceback" not in response.get_data(as_text=True)
    return document


def finish(service: Service, job_id: str, tmp_path: Path, outputs: dict[str, bytes]) -> None:
    """End a job as the merge would."""
    paths = {}
    for suffix, content in outputs.items():
        paths[suffix] = tmp_path / f"output.{suffix}"
        paths[suffix].write_bytes(content)
    service.store.publish_outputs(job_id, 1, paths)
    assert service.progress.jobs.update(job_id, status=JobStatus.PROCESSING) is not None
    assert service.progress.jobs.update(job_id, status=JobStatus.COMPLETED) is not None
