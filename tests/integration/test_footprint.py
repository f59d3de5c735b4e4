"""What the service's processes load: Alembic is for `migrate` alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from celery_progress_ext import JobStatus
from celery_progress_ext.storage import Database
from celery_progress_ext.storage.migrate import migrate
from tests.support.chords import Bench, follow
from tests.support.processes import ROOT, WorkerProcess

_HEAVY = "{'alembic'} & set(sys.modules)"
_WORKER = f"""
import os, sys
from tests.support.chord_app import make_app

app = make_app(os.environ)

@app.task(name="loaded", shared=False)
def loaded():
    return sorted({_HEAVY})
"""
_PUBLISHER = f"""
import os, sys
from celery_progress_ext import tracked_chord
from tests.support.chord_app import make_app

app = make_app(os.environ)
work, merge = (app.signature(name, args=args) for name, args in (("work", (0,)), ("merge", (sys.argv[1],))))
job = tracked_chord([work], merge, matter_id="m", document_id="d", ranges=[(1, 1)], app=app).apply_async()
print(job.snapshot().job_id, *({_HEAVY}))
"""
_WEB = f"""
import json, sys
from web import create_app

client = create_app().test_client()
answers = [client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/api/jobs/x")]
print(json.dumps([answers, client.get("/readyz").get_json()["checks"]["database"], sorted({_HEAVY})]))
"""


def test_neither_a_publisher_nor_a_worker_loads_alembic(
    chords: Bench, worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    """A chord from its first row to its end, with beat in the worker, on both databases."""
    (tmp_path / "footprint.py").write_text(_WORKER)
    worker("footprint", env=chords.env, args=["-B", "--schedule", str(tmp_path / "beat"), "-c", "1"])
    done = subprocess.run(
        [sys.executable, "-c", _PUBLISHER, str(chords.out)],
        cwd=ROOT,
        env={**os.environ, **chords.env},
        capture_output=True,
        text=True,
        check=True,
    )
    [job_id] = done.stdout.split()
    assert follow(chords.progress.job(job_id))[-1].status is JobStatus.COMPLETED
    assert chords.app.signature("loaded").apply_async().get(timeout=20) == []


def test_a_web_process_does_not_load_alembic(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """Not when it is asked whether it is ready either, for which it looks at the revisions."""
    database = Database(database_url)
    migrate(database)
    database.dispose()
    env = {
        **os.environ,
        "PROGRESS_DATABASE_URL": database_url,
        "CELERY_BROKER_URL": redis_url,
        "CELERY_RESULT_BACKEND": redis_url,
        "DOCUMENTS_URL": (tmp_path / "documents").as_uri(),
    }
    done = subprocess.run(
        [sys.executable, "-c", _WEB], cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=60
    )
    [healthy, ready, metrics, job], database_is, loaded = json.loads(done.stdout.splitlines()[-1])
    assert (healthy, ready, metrics, database_is, loaded) == (200, 200, 200, "ok", [])
    assert job in (401, 404)
