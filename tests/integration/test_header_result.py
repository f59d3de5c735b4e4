"""A published job stands where Celery's chord gives an `AsyncResult`: `parent`, `children` and their kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from celery.result import GroupResult

from tests.support.chords import Bench, follow
from tests.support.processes import WorkerProcess

Workers = Callable[..., WorkerProcess]


def test_a_job_has_what_the_result_of_a_chord_has(sqlite_chords: Bench, worker: Workers, redis_url: str) -> None:
    """Its parts by number, while they run and after; nothing is subscribed to for it."""
    noted = sqlite_chords.folder / "noted"
    body = sqlite_chords.merge()
    body.link(sqlite_chords.app.signature("note", args=(str(noted),), immutable=True))
    header = [sqlite_chords.work(0), sqlite_chords.work(1, do="fail"), sqlite_chords.work(2)]
    job = sqlite_chords.chord(header, body).apply_async()
    parent = job.parent
    assert isinstance(parent, GroupResult)
    assert (len(parent), parent.completed_count(), parent.ready(), parent.waiting()) == (3, 0, False, True)
    assert (job.children, parent.children[0].state) == (None, "PENDING")
    sqlite_chords.start_worker(worker)
    follow(job)
    assert (parent.completed_count(), parent.ready(), parent.failed(), parent.successful()) == (2, True, True, False)
    assert [part.state for part in parent] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert parent[2].get(timeout=5) == 2
    with pytest.raises(ValueError, match="boom"):
        parent[1].get(timeout=5)
    assert job.get(timeout=5) == 2
    assert [child.get(timeout=5) for child in job.children] == ["replaced"]
    del parent
    with redis.Redis.from_url(redis_url, socket_timeout=5) as client:
        subscribed = [channel.decode() for channel in client.pubsub_channels("celery-task-meta-*")]
    assert [channel for channel in subscribed if ".c" in channel] == []


def test_a_chunk_that_was_sent_again_is_still_that_part(sqlite_chords: Bench, worker: Workers) -> None:
    """Its result is under another task id by then."""
    job = sqlite_chords.chord([sqlite_chords.work(0, do="die", once=sqlite_chords.once()), sqlite_chords.work(1)])
    published = job.apply_async()
    parts = published.parent.children
    sqlite_chords.start_worker(worker, task_reject_on_worker_lost=False)
    sqlite_chords.assert_healed(published, total=2)
    assert [part.get(timeout=5) for part in parts] == [0, 1]
