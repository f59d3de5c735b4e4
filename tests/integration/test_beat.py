"""Beat ticks although it waits for its broker, and a worker says so where there is no beat at all."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from celery_progress_ext.broadcast.tick_trace import TickTrace
from tests.support.chord_app import TICK
from tests.support.chords import MODULE, Bench
from tests.support.processes import BeatProcess, WorkerProcess
from tests.support.waiting import wait_for


def test_beat_ticks_when_the_broker_was_away_at_its_start(
    sqlite_chords: Bench, beat: Callable[..., BeatProcess], redis_url: str
) -> None:
    """It waits for the broker inside Celery, and wakes nobody: what needs no broker is healed and sent all the same."""
    process = beat(MODULE, env={**sqlite_chords.env, "CELERY_BROKER_URL": "redis://127.0.0.1:1/0"})
    with redis.Redis.from_url(redis_url, socket_timeout=5) as client:
        wait_for(lambda: client.exists("progress:ticked"), 10, what="a tick")
        client.delete("progress:ticked")
        wait_for(lambda: client.exists("progress:ticked"), 10, what="one more")
    assert "Connection error" in process.log


@pytest.mark.parametrize("runs", [False, True], ids=["no beat", "beat"])
def test_a_worker_says_that_there_is_no_beat(
    sqlite_chords: Bench, worker: Callable[..., WorkerProcess], beat: Callable[..., BeatProcess], runs: bool
) -> None:
    """Once, and what to do; where one runs, nothing."""
    if runs:
        beat(MODULE, env=sqlite_chords.env)
    process = worker(MODULE, env=sqlite_chords.env)
    seconds = TickTrace(sqlite_chords.progress.broadcaster, TICK).seconds
    if runs:
        time.sleep(seconds + 2)
        assert "no_beat" not in process.log
    else:
        process.wait_for_log("no_beat", seconds + 10)
        assert "celery -A APP beat" in process.log


@pytest.mark.parametrize("runs", [False, True], ids=["no beat", "beat"])
def test_a_job_whose_worker_is_lost_says_that_there_is_no_beat(
    sqlite_chords: Bench, worker: Callable[..., WorkerProcess], beat: Callable[..., BeatProcess], runs: bool
) -> None:
    """Without one nobody starts its chunk again, however long it is looked at."""
    job = sqlite_chords.chord([sqlite_chords.work(0, do="hang")]).apply_async()
    running = sqlite_chords.start_worker(worker, beat=False)
    wait_for(lambda: job.snapshot().chunks.processing == 1, 20, what="the chunk's start")
    running.kill()
    if runs:
        sqlite_chords.progress.tick()
    wait_for(lambda: job.snapshot().stalled, 20, what="the stalled chunk")
    (stalled,) = job.snapshot().stalled
    assert ("celery -A APP beat" in stalled.reason) is not runs
    waiting = job.snapshot().waiting
    assert waiting is None or runs or "No worker has answered" in waiting.reason or "no beat runs" in waiting.reason
