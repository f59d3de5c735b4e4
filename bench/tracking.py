"""What tracking costs: a tracked chord of no-ops against the same chord bare, in turn, on one worker each.

    python -m bench.tracking [--tasks 5000] [--pairs 3] [--database URL]

The bare side does not load the extension at all. Both publishers ask for the body's result a hundred times a second:
Celery's own ``get`` would spend a core on receiving each part, and then ask for the state of every parent of the body,
and tracking would look free. Prints of each pair the seconds from `apply_async` to the
body's result, the worker's CPU, the publisher's peak memory and the memory of the worker's three processes afterwards
(PSS and USS, see `Cost`), and the medians of the ratios. `--database` takes a PostgreSQL URL; `postgres` starts an
embedded one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.embedded.servers import PostgresServer, RedisServer

#: Runs the publisher's side in a process of its own, so that bare and tracked do not share an app.
_PUBLISH = """
import resource, sys, time
from celery import chord
from bench import noop_app
count, tracked = int(sys.argv[1]), sys.argv[2] == "1"
header = [noop_app.chunk.s(number) for number in range(count)]
began = time.perf_counter()
if tracked:
    from celery_progress_ext import tracked_chord
    result = tracked_chord(header, noop_app.merge.s(), matter_id="bench", document_id="bench").apply_async()
else:
    result = chord(header, noop_app.merge.s()).apply_async()
published = time.perf_counter()
backend = noop_app.app.backend
while (meta := backend.get_task_meta(result.id))["status"] != "SUCCESS":
    time.sleep(0.01)
assert meta["result"] == count
finished = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(published - began, finished - began, peak)
"""


def environment(redis: RedisServer, database_url: str, *, tracked: bool) -> dict[str, str]:
    """What publisher and worker run with; each kind has a broker database of its own."""
    url = redis.database_url(1 if tracked else 0)
    return {
        **os.environ,
        "CELERY_BROKER_URL": url,
        "CELERY_RESULT_BACKEND": url,
        "PROGRESS_DATABASE_URL": database_url,
        "BENCH_TRACKED": "1" if tracked else "0",
        "PYTHONWARNINGS": "ignore",
    }


@contextlib.contextmanager
def worker(env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A prefork worker of two processes, ready."""
    argv = [sys.executable, "-m", "celery", "-A", "bench.noop_app", "worker", "-c", "2", "-l", "WARNING"]
    with log.open("wb") as out:
        popen = subprocess.Popen([*argv, "--without-gossip", "--without-mingle"], env=env, stdout=out, stderr=out)
    try:
        ping = [sys.executable, "-m", "celery", "-A", "bench.noop_app", "inspect", "ping", "-t", "1"]
        for _ in range(30):
            if subprocess.run(ping, env=env, capture_output=True, check=False).returncode == 0:
                break
        else:
            raise SystemExit(f"the worker did not start:\n{log.read_text()[-2000:]}")
        yield popen
    finally:
        popen.terminate()
        popen.wait(30)


@dataclass(frozen=True)
class Cost:
    """Of one chord: seconds to publish it and to its body's result, the worker's CPU seconds (its start is in it on
    both sides), the publisher's peak memory and that of the worker's processes, in MB.

    A pool's children share pages with their parent. `worker` is the sum of PSS, in which a page that three processes
    share counts a third in each: the memory that all take together. `unshared` is the sum of USS, which leaves out
    every page that two of them share, and counts a parent's page once both children have copies of their own.
    """

    publish: float
    finish: float
    cpu: float
    publisher: float
    worker: float
    unshared: float

    def over(self, bare: Cost) -> dict[str, float]:
        """The ratios to the bare chord's."""
        return {
            name: getattr(self, name) / getattr(bare, name)
            for name in ("finish", "cpu", "publisher", "worker", "unshared")
        }

    def __str__(self) -> str:
        return (
            f"{self.finish:.2f} s (publish {self.publish:.2f}), worker {self.cpu:.2f} s of CPU, {self.worker:.0f} MB"
            f" ({self.unshared:.0f} unshared), publisher {self.publisher:.0f} MB"
        )


def run(env: dict[str, str], tasks: int, popen: subprocess.Popen[bytes], *, tracked: bool) -> Cost:
    """One chord on a worker that is started for it."""
    done = subprocess.run(
        [sys.executable, "-c", _PUBLISH, str(tasks), "1" if tracked else "0"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    published, finished, peak = map(float, done.stdout.split()[-3:])
    leader = psutil.Process(popen.pid)
    processes = (leader, *leader.children(recursive=True))
    memory = [process.memory_full_info() for process in processes]
    times = [process.cpu_times() for process in processes]
    return Cost(
        publish=published,
        finish=finished,
        cpu=sum(time.user + time.system for time in times),
        publisher=peak,
        worker=sum(each.pss for each in memory) / 2**20,
        unshared=sum(each.uss for each in memory) / 2**20,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--database", default="sqlite")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer())
        url = options.database
        if url == "sqlite":
            url = f"sqlite:///{folder}/progress.db"
        elif url == "postgres":
            url = stack.enter_context(PostgresServer()).url
        bare = environment(redis, url, tracked=False)
        tracked = environment(redis, url, tracked=True)
        subprocess.run(
            [sys.executable, "-m", "celery", "-A", "bench.noop_app", "progress", "migrate"], env=tracked, check=True
        )
        pairs = []
        for pair in range(options.pairs + 1):
            with worker(bare, folder / "bare.log") as popen:
                plain = run(bare, options.tasks, popen, tracked=False)
            with worker(tracked, folder / "tracked.log") as popen:
                ours = run(tracked, options.tasks, popen, tracked=True)
            if pair == 0:
                continue  # warm-up
            pairs.append(ours.over(plain))
            print(f"pair {pair}: bare {plain}\n     tracked {ours}\n       ratio {pairs[-1]['finish']:.2f}", flush=True)
        medians = {name: statistics.median(pair[name] for pair in pairs) for name in pairs[0]}
        print(
            f"{options.tasks} tasks on {options.database}, median ratios: time {medians['finish']:.2f},"
            f" worker's CPU {medians['cpu']:.2f}, publisher's memory {medians['publisher']:.2f},"
            f" worker's memory {medians['worker']:.2f} (unshared {medians['unshared']:.2f})"
        )


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"took {time.perf_counter() - started:.0f} s")
