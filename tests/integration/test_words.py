"""The words, the numbers and the owner are the user's: in messages, counts, lists, streams, and for whoever asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import abort
from sqlalchemy.engine import Connection

from celery_progress_ext import JobStatus, ids, tracked_chord, tracked_group
from celery_progress_ext.broadcast.memory import MemoryBroadcaster
from celery_progress_ext.broadcast.redis import RedisBroadcaster
from celery_progress_ext.chunks import Chunk
from celery_progress_ext.jobs import JobShape
from celery_progress_ext.storage import job_changes
from celery_progress_ext.storage.audit import audit
from celery_progress_ext.storage.job_changes import NewChunk
from tests.support.chords import Bench, follow
from tests.support.live import Live, make_snapshot, serve
from tests.support.processes import ROOT, WorkerProcess
from tests.support.rows import LEASE, Rows
from tests.support.sql import execute
from tests.support.web_service import ALL, ONE, Service

Workers = Callable[..., WorkerProcess]


def test_a_job_speaks_the_users_words(sqlite_chords: Bench, worker: Workers) -> None:
    """From the stage to the command line."""
    header = [sqlite_chords.work(0, pages=3, seconds=0.3), sqlite_chords.work(1, do="fail")]
    job = tracked_chord(
        header,
        sqlite_chords.merge(),
        ranges=[range(25), (100, 149)],
        unit="rows",
        merge_message="Importing the totals",
        app=sqlite_chords.app,
    ).apply_async()
    sqlite_chords.start_worker(worker)
    seen = follow(job)
    assert [stage for stage in dict.fromkeys(each.stage for each in seen) if "chunk" not in stage] == [
        "Waiting for a worker",
        "Importing the totals",
    ]
    last = seen[-1]
    assert (last.error, last.pages_total, last.pages_done) == ("Chunk 2 (rows 100-149) failed: boom", 75, 25)
    command = [sys.executable, "-m", "celery", "-A", "tests.support.chord_app", "progress", "show", job.id]
    env = {**os.environ, **sqlite_chords.env}
    shown = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert "rows 25/75" in shown.stdout and "Chunk 2 (rows 100-149) failed: boom" in shown.stdout
    assert sqlite_chords.progress.audit() == []


def test_a_merge_that_fails_says_so_in_its_own_words(sqlite_chords: Bench, worker: Workers) -> None:
    """What it was doing."""
    body = sqlite_chords.merge(do="fail")
    job = sqlite_chords.chord([sqlite_chords.work(0)], body, merge_message="Importing the totals").apply_async()
    sqlite_chords.start_worker(worker)
    assert follow(job)[-1].error == "Importing the totals failed: boom"


def test_a_chunk_without_a_range_is_as_large_as_its_task_reports(sqlite_chords: Bench, worker: Workers) -> None:
    """The totals add up, the bar of work goes by the costs, and nothing goes back."""
    header = [
        sqlite_chords.work(0, pages=40),
        sqlite_chords.work(1, pages=160, seconds=1.5),
        sqlite_chords.work(2, do="fail"),
    ]
    job = tracked_group(header, unit="rows", costs=[1, 4, 1], app=sqlite_chords.app).apply_async()
    sqlite_chords.start_worker(worker)
    seen = follow(job)
    last = seen[-1]
    # Whether the one that failed had reported its one row, a moment decides.
    assert last.pages_total == 40 + 160 + 1 and last.pages_done in (200, 201)
    assert last.error == "Chunk 3 failed: boom"
    for values in ([each.pages_done for each in seen], [each.work_pct for each in seen]):
        assert values == sorted(values)
    assert sqlite_chords.progress.audit() == []


def _sized(rows: Rows, chunks: list[NewChunk], **changes: Any) -> str:
    job_id = ids.new_job_id()
    made = [replace(each, id=ids.chunk_id(job_id, at), task_id=f"{job_id}.c{at}.1") for at, each in enumerate(chunks)]
    new = replace(rows.new_job(job_id, 1), chunks=made, **changes)
    assert rows.database.write(lambda conn: job_changes.create(conn, new, due=LEASE)) is not None
    return job_id


def _chunk(index: int, first: int, last: int, *, size: int | None = None, grows: bool = False) -> NewChunk:
    chunk = Chunk(index=index, page_start=first, page_end=last, size=size)
    return NewChunk(id="", chunk=chunk, task_id="", signature={}, grows=grows, cost=1.0 if grows else None)


def test_bytes_are_counted_as_well_as_pages(rows: Rows) -> None:
    """Numbers beyond four bytes, and products beyond eight, on both databases."""
    large = 5 * 10**12
    job = _sized(rows, [_chunk(0, 0, large - 1), _chunk(1, 2**60, 2**60 + 9, size=7), _chunk(2, 3, 3, grows=True)])
    assert rows.jobs.snapshot(job).pages_total == large + 7 + 1
    for index in range(3):
        rows.start(job, index)
    assert rows.progress(job, 0, attempt=1, done=large // 2, total=large) is not None
    assert rows.progress(job, 0, attempt=1, done=3 * large, total=4 * large) is not None
    assert rows.jobs.snapshot(job).pages_done == large * 3 // 4
    assert rows.progress(job, 1, attempt=1, done=5, total=10) is not None
    assert rows.jobs.snapshot(job).pages_done == large * 3 // 4 + 3
    assert rows.progress(job, 2, attempt=1, done=large, total=3 * large) is not None
    snapshot = rows.jobs.snapshot(job)
    assert (snapshot.pages_total, snapshot.pages_done) == (4 * large + 7, large * 3 // 4 + 3 + large)
    # Less than it had said before, and less than is done: what was shown is not taken back.
    assert rows.progress(job, 2, attempt=1, done=1, total=10) is not None
    assert rows.jobs.snapshot(job).pages_total == 2 * large + 7
    assert audit(rows.database) == []
    # The end says it once more: a short task is over before its reports are written.
    for index, total in enumerate([3, None, 3 * large]):
        rows.complete(job, index, total=total)
    snapshot = rows.jobs.snapshot(job)
    assert (snapshot.pages_total, snapshot.pages_done) == (4 * large + 7, 4 * large + 7)
    assert audit(rows.database) == []


def test_a_group_is_audited_by_its_own_rules(rows: Rows) -> None:
    """It ends without a merge, once; what is no chord's end is a contradiction there, and the other way round."""
    job = rows.create(2, shape=JobShape.GROUP)
    rows.complete(job, 0)
    assert rows.settle(job).status is JobStatus.PROCESSING
    rows.complete(job, 1)
    snapshot = rows.jobs.snapshot(job)
    assert (snapshot.status, snapshot.stage) == (JobStatus.COMPLETED, "Processing chunk 2/2")
    assert rows.claim(job) is None and rows.complete(job, 1) is None and rows.settle(job) is not None
    assert audit(rows.database) == []

    def say_that_it_is_a_chord(conn: Connection) -> None:
        execute(conn, "UPDATE processing_jobs SET shape = NULL WHERE id = :id", id=job)

    rows.database.write(say_that_it_is_a_chord)
    assert ["an end only by the newest merge" in str(drift) for drift in audit(rows.database)] == [True]


@pytest.mark.parametrize("job_id", ["job_none", "job_none.c4.1", "4f1d2c9e-8a41"])
def test_an_id_that_is_not_known(rows: Rows, job_id: str) -> None:
    """What it may be instead; not that it was removed, which nobody knows."""
    hints = {"job_none": "progress_database_url", "job_none.c4.1": "task of job 'job_none'", "4f1d2c9e-8a41": "'job_'"}
    with pytest.raises(Exception, match="There is no job") as raised:
        rows.jobs.snapshot(job_id)
    assert hints[job_id] in str(raised.value) and "retention" not in str(raised.value)


# Without an owner


@pytest.fixture(params=["redis", "memory"])
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    """Readers of the owners "m" and "None" alone."""

    def authorize(owner: str | None) -> None:
        if owner not in ("m", "None"):
            abort(403)

    made = MemoryBroadcaster() if request.param == "memory" else RedisBroadcaster(request.getfixturevalue("redis_url"))
    with serve(made, authorize=authorize) as served:
        yield served


def test_a_job_without_an_owner_is_in_nobodys_stream(live: Live) -> None:
    """Not even in that of an owner who is called None: neither when it begins nor when it changes."""
    unowned = live.commit(make_snapshot(matter_id=None))
    with live.follow_job(unowned) as reader:
        assert reader.response.status == 403
    with live.follow("/api/matters/None/events") as reader:
        live.commit(replace(unowned, version=2))
        mine = live.commit(make_snapshot(matter_id="None"))
        assert reader.next_event().payload["job_id"] == mine.job_id


def test_only_an_unscoped_key_reads_a_job_without_an_owner(web_service: Service) -> None:
    """One that another program published into the same database."""
    progress = web_service.progress
    app = progress.app
    job = tracked_group([app.signature("work", args=(1,))], app=app).apply_async()
    scoped, unscoped = web_service.client(ONE), web_service.client(ALL)
    for method, path in (
        ("get", ""),
        ("get", "/chunks"),
        ("get", "/history"),
        ("get", "/events"),
        ("get", "/result.pdf"),
        ("post", "/cancel"),
        ("post", "/retry"),
    ):
        assert getattr(scoped, method)(f"/api/jobs/{job.id}{path}").status_code == 403, path
    assert scoped.get("/api/jobs").get_json() == []
    assert [each["job_id"] for each in unscoped.get("/api/jobs").get_json()] == [job.id]
    assert unscoped.get(f"/api/jobs/{job.id}").get_json()["matter_id"] is None
    assert unscoped.post(f"/api/jobs/{job.id}/cancel").status_code == 202
