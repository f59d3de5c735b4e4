"""What publishing a tracked chord costs: 10,000 chunks from a generator, against the same chord bare, in turn.

    python -m bench.publishing [--tasks 10000] [--pairs 3] [--database URL]

No worker runs. Prints the seconds of ``apply_async`` and the CPU of the publishing process on each side, and the
medians of the ratios. ``--database postgres`` starts an embedded PostgreSQL.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.tracking import environment
from tasks.embedded.servers import PostgresServer, RedisServer

#: A process of its own a side, so that bare and tracked do not share an app.
_PUBLISH = """
import sys, time
from celery import chord
from bench import noop_app
count, tracked = int(sys.argv[1]), sys.argv[2] == "1"
with noop_app.app.producer_or_acquire() as producer:  # both sides are connected already
    producer.connection.ensure_connection()
noop_app.app.backend.client.ping()
began, cpu = time.perf_counter(), time.process_time()
header = (noop_app.chunk.s(number) for number in range(count))
if tracked:
    from celery_progress_ext import tracked_chord
    tracked_chord(header, noop_app.merge.s()).apply_async()
else:
    chord(header, noop_app.merge.s()).apply_async()
print(time.perf_counter() - began, time.process_time() - cpu)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
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
        sides = {side: environment(redis, url, tracked=side) for side in (False, True)}
        celery = [sys.executable, "-m", "celery", "-A", "bench.noop_app"]
        subprocess.run([*celery, "progress", "migrate"], env=sides[True], check=True)
        ratios: list[tuple[float, float]] = []
        for pair in range(options.pairs):
            found = {}
            for side, env in sides.items():
                argv = [sys.executable, "-c", _PUBLISH, str(options.tasks), str(int(side))]
                done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
                found[side] = tuple(map(float, done.stdout.split()[-2:]))
                subprocess.run([*celery, "purge", "-f"], env=env, capture_output=True, check=True)
            (bare, bare_cpu), (tracked, tracked_cpu) = found[False], found[True]
            ratios.append((tracked / bare, tracked_cpu / bare_cpu))
            print(
                f"pair {pair + 1}: bare {bare:.2f} s ({bare_cpu:.2f} of CPU), tracked {tracked:.2f} s"
                f" ({tracked_cpu:.2f}), ratio {ratios[-1][0]:.2f} ({ratios[-1][1]:.2f})",
                flush=True,
            )
        wall, cpu = (statistics.median(each) for each in zip(*ratios, strict=True))
        print(f"{options.tasks} tasks on {options.database}, median ratios: time {wall:.2f}, publisher's CPU {cpu:.2f}")


if __name__ == "__main__":
    main()
