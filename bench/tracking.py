"""What tracking costs: a tracked chord of no-ops against the same chord bare, in turn, on one worker each.

    python -m bench.tracking [--tasks 2000] [--pairs 3] [--database URL]

The bare worker does not load the extension at all. The bare publisher lets go of the parts' results as a tracked chord
does: Celery's own would spend a core on receiving each of them, and tracking would look free. Prints the seconds from
`apply_async` to the body's result of each pair and the median of their ratios. `--database` takes a PostgreSQL URL;
`postgres` starts an embedded one.
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
from pathlib import Path

import psutil

from tasks.servers import PostgresServer, RedisServer

#: Runs the publisher's side in a process of its own, so that bare and tracked do not share an app.
_PUBLISH = """
import sys, time
from celery import chord
from bench import noop_app
count, tracked = int(sys.argv[1]), sys.argv[2] == "1"
header = [noop_app.chunk.s(number) for number in range(count)]
began = time.perf_counter()
if tracked:
    from celery_progress_ext import tracked_chord
    result = tracked_chord(header, noop_app.merge.s(), matter_id="bench", document_id="bench").apply_async()
else:
    from celery_progress_ext.canvas import forget_parts
    result = chord(header, noop_app.merge.s()).apply_async()
    forget_parts(noop_app.app, [part.id for part in result.parent.results])
published = time.perf_counter()
assert result.get(timeout=600) == count
print(published - began, time.perf_counter() - began)
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


def cpu_seconds(popen: subprocess.Popen[bytes]) -> float:
    """What a worker and its pool have used since they were started; starting is in it on both sides."""
    leader = psutil.Process(popen.pid)
    times = [process.cpu_times() for process in (leader, *leader.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def run(env: dict[str, str], tasks: int, *, tracked: bool) -> tuple[float, float]:
    """One chord: seconds to publish it, and to its body's result."""
    done = subprocess.run(
        [sys.executable, "-c", _PUBLISH, str(tasks), "1" if tracked else "0"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    published, finished = done.stdout.split()[-2:]
    return float(published), float(finished)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
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
        ratios = []
        for pair in range(options.pairs + 1):
            with worker(bare, folder / "bare.log") as popen:
                plain = run(bare, options.tasks, tracked=False)
                plain_cpu = cpu_seconds(popen)
            with worker(tracked, folder / "tracked.log") as popen:
                ours = run(tracked, options.tasks, tracked=True)
                our_cpu = cpu_seconds(popen)
            if pair == 0:
                continue  # warm-up
            ratios.append(ours[1] / plain[1])
            print(
                f"pair {pair}: bare {plain[1]:.2f} s (publish {plain[0]:.2f}), tracked {ours[1]:.2f} s"
                f" (publish {ours[0]:.2f}), ratio {ratios[-1]:.2f};"
                f" worker's CPU {plain_cpu:.2f} s and {our_cpu:.2f} s, ratio {our_cpu / plain_cpu:.2f}",
                flush=True,
            )
        print(f"{options.tasks} tasks on {options.database}: median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"took {time.perf_counter() - started:.0f} s")
