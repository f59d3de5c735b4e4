"""How long a job stands still after a fault, against the promise: one lease and two ticks.

    python -m bench.recovery [--lease 4] [--tick 1]

For each fault a tracked chord runs on a real Redis and a prefork worker with beat beside it; what is printed is the
time from the fault to the first event in the job's history that a healthy process wrote after it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis as redis_py
import structlog

from celery_progress_ext.tracked_job import TrackedJob
from tasks.embedded.servers import RedisServer
from tests.support.chords import MODULE, Bench, environment
from tests.support.processes import BeatProcess, WorkerProcess
from tests.support.waiting import wait_for

#: What a worker that is well writes once the job moves again; after FLUSHALL those at work go on, and what was lost is
#: sent again.
_MOVED = {
    "killed worker": {"chunk_started", "chunk_completed"},
    "FLUSHALL": {"chunk_redispatched"},
    "killed body": {"merge_started", "job_completed"},
}


def measure(folder: Path, conf: dict[str, float], fault: str) -> float:
    """Seconds from the fault to the next movement of the job."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis"))
        env = dict(environment(redis.database_url(0), f"sqlite:///{folder}/progress.db"))
        env["CHORD_APP_CONF"] = json.dumps(conf)
        chords = Bench(env, folder)
        stack.callback(chords.close)
        worker = WorkerProcess(MODULE, log=folder / "worker.log", env=env)
        spare = WorkerProcess(MODULE, log=folder / "spare.log", env=env, name="spare")
        beat = BeatProcess(MODULE, log=folder / "beat.log", env=env)
        for process in (worker, beat):
            process.start()
            stack.callback(process.kill)
        job = _FAULTS[fault](chords, redis, worker)
        struck, version = time.monotonic(), job.snapshot().version
        if not worker.alive:
            stack.callback(spare.kill)
            spare.start()
        wait_for(lambda: _moved(chords, job, version, _MOVED[fault]), 60)
        return time.monotonic() - struck


def _moved(chords: Bench, job: TrackedJob, version: int, events: set[str]) -> bool:
    return any(event["type"] in events for event in chords.progress.jobs.history(job.id, after=version))


def _killed_worker(chords: Bench, redis: RedisServer, worker: WorkerProcess) -> TrackedJob:
    job = chords.chord([chords.work(n, pages=50, seconds=5) for n in range(2)]).apply_async()
    wait_for(lambda: job.snapshot().chunks.processing == 2, 20)
    worker.kill()
    return job


def _flushall(chords: Bench, redis: RedisServer, worker: WorkerProcess) -> TrackedJob:
    job = chords.chord([chords.work(n, seconds=1) for n in range(20)]).apply_async()
    wait_for(lambda: job.snapshot().chunks.completed == 2, 20)
    with redis_py.Redis.from_url(redis.url) as client:
        client.flushall()
    return job


def _killed_body(chords: Bench, redis: RedisServer, worker: WorkerProcess) -> TrackedJob:
    job = chords.chord([chords.work(0)], chords.merge(seconds=30)).apply_async()
    wait_for(lambda: job.snapshot().stage_name == "merge", 20)
    worker.kill()
    return job


_FAULTS: dict[str, Callable[[Bench, RedisServer, WorkerProcess], TrackedJob]] = {
    "killed worker": _killed_worker,
    "FLUSHALL": _flushall,
    "killed body": _killed_body,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lease", type=float, default=4.0)
    parser.add_argument("--tick", type=float, default=1.0)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    bound = options.lease + 2 * options.tick
    conf = {"progress_lease_seconds": options.lease, "progress_tick_seconds": options.tick}
    for fault in _FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(Path(folder), conf, fault)
        print(f"{fault}: moving again after {seconds:.1f} s; a lease and two ticks are {bound:.1f} s", flush=True)


if __name__ == "__main__":
    main()
