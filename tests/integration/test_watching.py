"""What changes without a version, a stall or a silence, is seen by watchers, on the command line and on the stream."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celery_progress_ext import JobSnapshot
from celery_progress_ext.tracked_job import TrackedJob
from tests.support.chords import MODULE, Bench, environment
from tests.support.processes import ROOT, BeatProcess, WorkerProcess
from tests.support.waiting import wait_for

Workers = Callable[..., WorkerProcess]


@pytest.fixture
def impatient(redis_url: str, sqlite_url: str, tmp_path: Path) -> Iterator[Bench]:
    """A page that takes a second is called stalled."""
    conf = json.dumps({"progress_stall_seconds": 1})
    bench = Bench({**environment(redis_url, sqlite_url), "CHORD_APP_CONF": conf}, tmp_path)
    yield bench
    bench.close()


def _watch_until(job: TrackedJob, seen: Callable[[list[JobSnapshot]], bool]) -> list[JobSnapshot]:
    found: list[JobSnapshot] = []
    for snapshot in job.watch(timeout=30.0):
        found.append(snapshot)
        if seen(found):
            return found
    raise AssertionError(f"not seen: {found[-1]}")


def test_a_stuck_page_is_seen_for_as_long_as_it_is_stuck(impatient: Bench, worker: Workers) -> None:
    """The same version again and again, about once a second, with how long it has been so; the finish is unknown."""
    worker(MODULE, env=impatient.env)
    job = impatient.chord([impatient.work(0, seconds=60.0)]).apply_async()
    begun = time.monotonic()
    seen = _watch_until(job, lambda found: len({chunk.seconds for each in found for chunk in each.stalled}) >= 3)
    stuck = [snapshot for snapshot in seen if snapshot.stalled]
    assert len({snapshot.version for snapshot in stuck}) == 1
    assert len(stuck) <= time.monotonic() - begun + 1
    assert {snapshot.eta for snapshot in stuck} == {None}
    assert all(snapshot.waiting and snapshot.waiting.reason.startswith("Nothing has moved for ") for snapshot in stuck)
    job.cancel()


def test_what_a_job_waits_for_is_seen(sqlite_chords: Bench) -> None:
    """Nobody has begun it, so its version stays; nothing is seen twice."""
    job = sqlite_chords.chord([sqlite_chords.work(0)]).apply_async()
    seen = _watch_until(job, lambda found: found[-1].waiting is not None)
    assert [snapshot.waiting and snapshot.waiting.reason for snapshot in seen] == [
        None,
        "No worker has started it yet.",
    ]
    assert list(job.watch(timeout=2.5))[1:] == []


def test_the_command_line_says_what_a_job_waits_for(sqlite_chords: Bench, worker: Workers) -> None:
    """In `show`, `list` and `watch`, which says it once."""
    worker(MODULE, env=sqlite_chords.env, args=["-Q", "other"])
    job = sqlite_chords.chord([sqlite_chords.work(0)]).apply_async()
    reason = "No worker listens to queue celery."
    wait_for(lambda: (job.snapshot().waiting or None) and job.snapshot().waiting.reason == reason, what="the reason")

    def run(*arguments: str) -> str:
        argv = [sys.executable, "-m", "celery", "-A", MODULE, "progress", *arguments]
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **sqlite_chords.env}
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60).stdout

    assert reason in run("show", job.id)
    assert reason in run("list")
    worker(MODULE, env=sqlite_chords.env, name="second")
    assert "COMPLETED" in run("watch", job.id).splitlines()[-1]


def test_beat_sends_what_changes_without_a_version(
    sqlite_chords: Bench, worker: Workers, beat: Callable[..., BeatProcess]
) -> None:
    """To the readers of the stream, as a heartbeat of the same version; and who comes later gets it from the start."""
    killed = worker(MODULE, env=sqlite_chords.env, concurrency=1)
    beat(MODULE, env=sqlite_chords.env)
    job = sqlite_chords.chord([sqlite_chords.work(0, seconds=60.0)]).apply_async()
    wait_for(lambda: job.snapshot().chunks.processing == 1, what="the chunk at work")
    killed.kill()

    def kept() -> str:
        message = sqlite_chords.progress.broadcaster.kept(job.id)
        waiting = message and message.payload["waiting"]
        return waiting["reason"] if waiting else ""

    wait_for(lambda: kept().startswith("No worker has answered for "), timeout=30.0, what="the reason")
