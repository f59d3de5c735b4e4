"""What a page of a matter's list costs the server where the matter has 10,000 documents.

    python -m bench.listing [--documents 10000] [--database URL] [--rounds 20]

Each page is asked for over HTTP, as the page in a browser does, of the service's application without its network. One
document in twenty failed in part, one in a hundred is at work. `--database` takes a PostgreSQL URL; `postgres` starts
an embedded one.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
import structlog
from celery import Celery
from flask.testing import FlaskClient

from celery_progress_ext import CeleryProgress, JobStatus
from celery_progress_ext.storage.schema import processing_jobs as jobs
from tasks.embedded.servers import PostgresServer
from tasks.settings import ServiceSettings
from tests.support.rows import Rows
from web import create_app, streams

MATTER, KEY = "m", "bench-key-of-the-list"


def fill(rows: Rows, documents: int) -> None:
    """A matter of so many jobs: copies of three, whose chunks and events are not copied, since no page reads them."""
    models = {
        JobStatus.COMPLETED: rows.create(4),
        JobStatus.PARTIAL: rows.create(4),
        JobStatus.PROCESSING: rows.create(4),
    }
    for index in range(4):
        rows.start(models[JobStatus.PROCESSING], index)
        for status in (JobStatus.COMPLETED, JobStatus.PARTIAL):
            (rows.fail if status is JobStatus.PARTIAL and not index else rows.complete)(models[status], index)
    for status in (JobStatus.COMPLETED, JobStatus.PARTIAL):
        rows.finish(models[status], rows.claim(models[status]).body_attempt)
    own = ("id", "created_at", "title", "title_key", "document_id")
    with rows.database.engine.begin() as conn:
        read = {
            status: conn.execute(sa.select(jobs).where(jobs.c.id == job_id)).one() for status, job_id in models.items()
        }
        copies = [
            {
                **{name: value for name, value in read[_status(number)]._mapping.items() if name not in own},
                "id": f"copy_{number}",
                "document_id": f"doc_{number}",
                "created_at": 1_790_000_000.0 + number,
                "title": f"Scan {number} of the archive.pdf",
                "title_key": f"scan {number} of the archive.pdf",
            }
            for number in range(documents)
        ]
        conn.execute(sa.insert(jobs), copies)


def _status(number: int) -> JobStatus:
    if number % 100 == 0:
        return JobStatus.PROCESSING
    return JobStatus.PARTIAL if number % 20 == 0 else JobStatus.COMPLETED


def measure(client: FlaskClient, url: str, rounds: int) -> tuple[float, float, int]:
    """(median, worst) in ms, and how many jobs there were."""
    times, found = [], 0
    for _ in range(rounds):
        began = time.perf_counter()
        answer = client.get(url)
        times.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        found = len(answer.get_json())
    return statistics.median(times), max(times), found


def deep(client: FlaskClient, pages: int) -> str:
    """The address of the page behind so many."""
    url = f"/api/jobs?matter_id={MATTER}&limit=200"
    for _ in range(pages):
        link = re.match(r"<(.*)>;", client.get(url).headers.get("Link", ""))
        url = link[1] if link else url
    return url.replace("limit=200", "limit=50")


def main() -> None:
    """Fill a database, ask for pages, print what they cost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--database")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = options.database or f"sqlite:///{folder}/progress.db"
        if database == "postgres":
            database = stack.enter_context(PostgresServer()).url
        fill(Rows(database), options.documents)
        celery = Celery("bench", broker="memory://", backend="cache+memory://", set_as_current=False)
        celery.conf.update(progress_database_url=database)
        app = create_app(
            CeleryProgress(celery),
            ServiceSettings(documents_url=(folder / "documents").as_uri(), api_keys={KEY: ("*",)}),
        )
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
        first = f"/api/jobs?matter_id={MATTER}"
        for name, url in {
            "first page": first,
            "page of the oldest": deep(client, options.documents // 200 - 1),
            "search, many found": f"{first}&q=archive",
            "search, one found": f"{first}&q=scan+{options.documents // 2 + 1}",
            "search, none found": f"{first}&q=nowhere",
            "filter, one in a hundred": f"{first}&status=PENDING,PROCESSING",
            "filter, none": f"{first}&status=CANCELLED",
        }.items():
            median, worst, found = measure(client, url, options.rounds)
            print(f"{name:<26} {found:3} documents, median {median:6.1f} ms, worst {worst:6.1f} ms", flush=True)
        streams.close(app)


if __name__ == "__main__":
    main()
