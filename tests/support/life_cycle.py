"""Jobs from their creation to every kind of end, and one that still runs: ``python -m tests.support.life_cycle URL``.

Run by this version of the library and by the one before the newest revision, on tables that the other one may have
made. What it does is asked of the storage, without a broker, and then a tick. The last line of the output is JSON.
"""

from __future__ import annotations

import json
import sys

from celery import Celery

import celery_progress_ext
from celery_progress_ext import CeleryProgress, JobStatus
from celery_progress_ext.storage import workers
from tests.support.rows import Rows


def live(url: str) -> dict[str, str]:
    """Three jobs; job id → the status that it has to have now."""
    rows = Rows(url, migrated=False)
    try:
        retried, cancelled, running = _retried(rows), _cancelled(rows), _running(rows)
        _work(rows)
        expected = {retried: JobStatus.COMPLETED, cancelled: JobStatus.CANCELLED, running: JobStatus.PROCESSING}
        for job_id, status in expected.items():
            snapshot = rows.jobs.snapshot(job_id)
            assert snapshot.status is status, snapshot
            assert [event["version"] for event in rows.jobs.history(job_id)][-1] <= snapshot.version
        assert {snapshot.job_id for snapshot in rows.jobs.list("m", search="a.pdf")} >= set(expected)
        return {job_id: status.value for job_id, status in expected.items()}
    finally:
        rows.database.dispose()


def tick(url: str, *, times: int = 1) -> dict[str, int]:
    """Ticks of an app whose broker is in memory; the last one's answer."""
    app = Celery("life", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.progress_database_url = url
    progress = CeleryProgress(app)
    try:
        return [progress.reconciler.tick() for _ in range(times)][-1]
    finally:
        progress.database.dispose()
        app.close()


def _retried(rows: Rows) -> str:
    """Progress, a late success, a lost message, a chunk that failed, a merge that died, PARTIAL, and a retry."""
    job_id = rows.create(4)
    assert rows.start(job_id, 0) is not None
    assert rows.progress(job_id, 0, attempt=1, done=5) is not None
    assert rows.complete(job_id, 0, result="a reference") is not None
    assert rows.fail(job_id, 1) is not None
    assert rows.lose(job_id, 2) is not None
    assert rows.start(job_id, 2) is not None
    assert rows.complete(job_id, 2) is not None
    assert rows.fail(job_id, 3) is not None
    assert rows.complete(job_id, 3) is not None
    assert rows.claim(job_id, lease=-1) is not None
    assert rows.finish(job_id, rows.claim(job_id).body_attempt).status == "PARTIAL"
    assert rows.reopen(job_id) is not None
    assert rows.start(job_id, 1) is not None
    assert rows.complete(job_id, 1) is not None
    assert rows.finish(job_id, rows.claim(job_id).body_attempt).status == "COMPLETED"
    return job_id


def _cancelled(rows: Rows) -> str:
    job_id = rows.create(2)
    assert rows.start(job_id, 0) is not None
    assert rows.end(job_id) is not None
    return job_id


def _running(rows: Rows) -> str:
    job_id = rows.create(3)
    assert rows.start(job_id, 0) is not None
    assert rows.complete(job_id, 0) is not None
    assert rows.start(job_id, 1) is not None
    return job_id


def _work(rows: Rows) -> None:
    """A worker comes and goes."""
    workers.seen(rows.database, "a@h", queues=["q"], slots=2, lease=30.0)
    assert workers.live_slots(rows.database, ["q"]) == 2
    workers.gone(rows.database, "a@h")
    assert workers.live_slots(rows.database, ["q"]) == 0


if __name__ == "__main__":
    answer = {"jobs": live(sys.argv[1]), "tick": tick(sys.argv[1]), "library": celery_progress_ext.__file__}
    print(json.dumps(answer))
