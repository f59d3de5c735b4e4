"""What the tick learns from jobs that ended, and what the next snapshot of their kind makes of it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celery_progress_ext import JobStatus
from celery_progress_ext.calibration import Phase
from celery_progress_ext.config import Settings
from celery_progress_ext.storage import Snapshots, retention, workers
from celery_progress_ext.storage.kinds import Kinds, learn
from tests.support.rows import LEASE, Rows

KIND = "merge ocr pages"


def run(
    rows: Rows, *, kind: str = KIND, chunks: int = 4, chunk_seconds: float = 50.0, merge_seconds: float = 10.0
) -> str:
    """A job whose chunks of 25 pages, one after the other, took so long each, and its merge so long; it ends now."""
    job_id = rows.create(chunks, kind=kind)
    for index in range(chunks):
        promise = rows.snapshots.last_promise(job_id)
        started = rows.start(job_id, index, promise=promise)
        assert started is not None
        rows.pass_time(chunk_seconds / 25)
        rows.progress(job_id, index, attempt=started.chunk.attempt, done=1)
        rows.snapshots.get(job_id)
        rows.pass_time(chunk_seconds * 24 / 25)
        rows.complete(job_id, index, seconds=chunk_seconds)
    claimed = rows.claim(job_id, promise=rows.snapshots.last_promise(job_id))
    rows.pass_time(merge_seconds)
    assert rows.finish(job_id, claimed.body_attempt) is not None
    return job_id


def test_a_kind_learns_from_each_job_once(rows: Rows) -> None:
    """Pace, merge and what was promised; a second tick finds nothing more."""
    run(rows)
    assert (learn(rows.database), learn(rows.database)) == (1, 0)
    kind = Kinds(rows.database).get(KIND)
    assert len(kind.jobs) == 1
    assert kind.experience is not None
    assert kind.experience.pace == pytest.approx(0.69, abs=0.05)  # ln 2
    assert kind.merge(200.0).seconds == pytest.approx(10.0, rel=0.05)
    assert Phase.MERGING not in kind.scores()
    assert sum(score.promises for score in kind.scores().values()) > 1


def test_the_next_job_is_estimated_before_its_first_page(rows: Rows) -> None:
    """Four chunks of 50 s, one after the other, and a merge of 10."""
    for _ in range(5):
        run(rows)
    learn(rows.database)
    job_id = rows.create(4, kind=KIND)
    rows.start(job_id, 0)
    eta = Snapshots(rows.database, Settings()).get(job_id).eta
    assert eta is not None
    now = rows.snapshots.get(job_id).heartbeat_at
    assert now is not None
    assert (eta.finish_at - now).total_seconds() == pytest.approx(210.0, rel=0.15)


def test_another_kind_is_told_nothing(rows: Rows) -> None:
    """Each kind has its own past."""
    run(rows)
    learn(rows.database)
    job_id = rows.create(4, kind="merge rows rows")
    rows.start(job_id, 0)
    assert Snapshots(rows.database, Settings()).get(job_id).eta is None


def test_a_job_that_failed_teaches_nothing(rows: Rows) -> None:
    """Nor does one that was cancelled; either is looked at once."""
    job_id = rows.create(2, kind=KIND)
    rows.start(job_id, 0)
    rows.end(job_id)
    assert (learn(rows.database), learn(rows.database)) == (1, 0)
    assert Kinds(rows.database).all() == {}


def test_a_retry_teaches_again_but_not_of_its_merge(rows: Rows) -> None:
    """The merge did everything again, and only one chunk was timed."""
    job_id = rows.create(2, kind=KIND)
    for index, fails in ((0, False), (1, True)):
        started = rows.start(job_id, index)
        assert started is not None
        rows.pass_time(50.0)
        if fails:
            rows.fail(job_id, index, attempt=started.chunk.attempt)
        else:
            rows.complete(job_id, index, seconds=50.0)
    rows.finish(job_id, rows.claim(job_id).body_attempt)
    assert learn(rows.database) == 1
    rows.reopen(job_id)
    rows.start(job_id, 1)
    rows.pass_time(50.0)
    rows.complete(job_id, 1, seconds=50.0, dispatch=2)
    rows.finish(job_id, rows.claim(job_id).body_attempt)
    assert rows.jobs.snapshot(job_id).status is JobStatus.COMPLETED
    assert learn(rows.database) == 1
    first, second = Kinds(rows.database).get(KIND).jobs
    assert first.merge is not None
    assert second.merge is None


def test_retention_reaches_kinds(rows: Rows) -> None:
    """A kind that has learned nothing for so long is forgotten, too."""
    run(rows)
    learn(rows.database)
    list(retention.expire(rows.database, days=1))
    assert len(Kinds(rows.database).all()) == 1
    list(retention.expire(rows.database, days=-1))
    assert Kinds(rows.database).all() == {}


def test_the_history_keeps_the_whole_promise(rows: Rows) -> None:
    """Finish, earliest and latest, as they were shown."""
    job_id = run(rows)
    promised = [event for event in rows.jobs.history(job_id) if event["eta_finish_at"] is not None]
    assert {event["type"] for event in promised} >= {"chunk_started", "merge_started"}
    for event in promised:
        assert event["eta_earliest_at"] <= event["eta_finish_at"] <= event["eta_latest_at"]


def test_steps_of_a_chunk_without_a_range_are_a_share_of_it(rows: Rows) -> None:
    """A first report of 1 of 6 is a sixth, not the whole chunk: no page is done, and the rest is to come."""
    job_id = rows.create(2, pages=1)
    for index in (0, 1):
        started = rows.start(job_id, index)
        assert started is not None
        rows.pass_time(1.0)
        rows.progress(job_id, index, attempt=started.chunk.attempt, done=1, total=6)
    snapshot = rows.snapshots.get(job_id)
    assert (snapshot.pages_done, snapshot.pages_total) == (0, 2)
    assert snapshot.work_pct == pytest.approx(16.1, abs=0.3)
    assert snapshot.eta is not None
    assert snapshot.heartbeat_at is not None
    assert snapshot.eta.finish_at - snapshot.heartbeat_at > timedelta(seconds=3.5)


def test_costs_weigh_the_bar_of_work(rows: Rows) -> None:
    """Nine tenths of the work are in the second chunk; the percent of chunks is what it was."""
    job_id = rows.create(2, costs=[10.0, 90.0])
    rows.start(job_id, 0)
    rows.complete(job_id, 0, seconds=1.0)
    snapshot = rows.snapshots.get(job_id)
    assert snapshot.progress_pct == 50
    assert snapshot.work_pct == pytest.approx(9.7, abs=0.1)


def test_the_bar_of_work_does_not_go_back_when_the_merge_begins_again(rows: Rows) -> None:
    """Its worker was lost at 20 of 25 pages."""
    job_id = rows.create(1)
    rows.start(job_id, 0)
    rows.complete(job_id, 0, seconds=1.0)
    first = rows.claim(job_id)
    rows.merge_progress(job_id, first.body_attempt, done=20)
    before = rows.snapshots.get(job_id).work_pct
    rows.pass_time(LEASE + 1)
    again = rows.claim(job_id)
    assert again.merge_pages_done == 0
    assert before - 0.11 <= rows.snapshots.get(job_id).work_pct < 100


def test_a_merge_that_counts_other_steps_is_a_share_of_the_pages(rows: Rows) -> None:
    """Two of four files, of a document of 25 pages."""
    job_id = rows.create(1)
    rows.start(job_id, 0)
    rows.complete(job_id, 0, seconds=1.0)
    claimed = rows.claim(job_id)
    assert rows.merge_progress(job_id, claimed.body_attempt, done=2, total=4).merge_pages_done == 12


def test_a_job_behind_others_has_a_finish_time_where_its_kind_is_known(rows: Rows) -> None:
    """One slot: what the first has left, 100 pages of 2 s, is before the second's own 100 s and its merge."""
    for _ in range(5):
        run(rows)
    learn(rows.database)
    first = rows.create(4, kind=KIND)
    rows.start(first, 0)
    second = rows.create(2, kind=KIND)
    rows.pass_time(20.0)
    workers.seen(rows.database, "w@a", queues=["celery"], slots=1, lease=LEASE)
    snapshot = Snapshots(rows.database, Settings()).get(second)
    assert snapshot.waiting is not None
    assert snapshot.waiting.jobs_before == 1
    assert snapshot.eta is not None
    assert snapshot.heartbeat_at is not None
    assert (snapshot.eta.finish_at - snapshot.heartbeat_at).total_seconds() == pytest.approx(200 + 100 + 10, rel=0.25)
