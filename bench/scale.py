"""What a completion costs in a job of 10,000 chunks, against one in a job of 100.

    python -m bench.scale [--database URL] [--rounds 30]

Completes chunks of both jobs in turn, in blocks of 50, through the rows and the broadcast on a real Redis, as the
task_success receiver does; prints the median cost of each and the median of the paired ratios. `--database` takes a
PostgreSQL URL; `postgres` starts an embedded one. A new small job is begun when one is used up.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import structlog
from celery import Celery

from celery_progress_ext import CeleryProgress, ids
from celery_progress_ext.chunks import Chunk
from celery_progress_ext.ids import TaskId
from celery_progress_ext.storage import job_changes as jobs
from celery_progress_ext.storage.job_changes import NewChunk, NewJob
from tasks.embedded.servers import PostgresServer, RedisServer

LARGE, SMALL, BLOCK = 10_000, 100, 50


def job_of(progress: CeleryProgress, count: int) -> Iterator[TaskId]:
    """A new job's chunks, one after the other."""
    job_id = ids.new_job_id()
    new = NewJob(
        id=job_id,
        matter_id="bench",
        document_id="bench",
        unit="pages",
        on_chunk_failure="partial",
        metadata={},
        body_task_id=job_id,
        body_signature={},
        chunks=[
            NewChunk(
                id=ids.chunk_id(job_id, index),
                chunk=Chunk(index=index, page_start=index + 1, page_end=index + 1),
                task_id=ids.chunk_task_id(job_id, index, 1),
                signature="{}",
            )
            for index in range(count)
        ],
    )
    progress.database.write(lambda conn: jobs.create(conn, new, due=3600.0))
    # The last one is left: with it the job would be due for its merge.
    yield from (TaskId(job_id, index, 1) for index in range(count - 1))


def block(progress: CeleryProgress, chunks: Iterator[TaskId]) -> float | None:
    """Seconds a completion, over a block of them; None where too few chunks are left."""
    tasks = [task for _, task in zip(range(BLOCK), chunks, strict=False)]
    if len(tasks) < BLOCK:
        return None
    began = time.perf_counter()
    for task in tasks:
        progress.recording.chunks.succeeded(task, result=task.chunk_index, seconds=0.01)
    return (time.perf_counter() - began) / BLOCK


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", default="sqlite")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        url = options.database
        if url == "sqlite":
            url = f"sqlite:///{Path(stack.enter_context(tempfile.TemporaryDirectory()))}/progress.db"
        elif url == "postgres":
            url = stack.enter_context(PostgresServer()).url
        app = Celery("scale", broker=redis.url, backend=redis.url)
        app.conf.update(progress_database_url=url)
        progress = CeleryProgress(app)
        progress.migrate()
        stack.callback(progress.database.dispose)
        large, small = job_of(progress, LARGE), job_of(progress, SMALL)
        costs: list[tuple[float, float]] = []
        while len(costs) < options.rounds + 1:
            a_small = block(progress, small)
            if a_small is None:
                small = job_of(progress, SMALL)
                continue
            a_large = block(progress, large)
            assert a_large is not None
            costs.append((a_small, a_large))
    del costs[0]  # warm-up
    of_small, of_large = (statistics.median(column) * 1000 for column in zip(*costs, strict=True))
    ratio = statistics.median(a_large / a_small for a_small, a_large in costs)
    print(
        f"{options.database}: a completion at {SMALL} chunks {of_small:.2f} ms, at {LARGE} chunks {of_large:.2f} ms,"
        f" median ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
