"""A tracked chord on real servers, as a test drives it."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kombu.pools
import pytest
from celery import Celery

from celery_progress_ext import CeleryProgress, JobSnapshot, JobStatus, tracked_chord
from celery_progress_ext.tracked_job import TrackedJob
from tests.support import fault_points
from tests.support.chord_app import make_app
from tests.support.fault_points import FaultPoint
from tests.support.processes import WorkerProcess

MODULE = "tests.support.chord_app"


@dataclass
class Bench:
    """An app, its extension, and the file in which the body leaves its lines."""

    env: dict[str, str]
    folder: Path

    def __post_init__(self) -> None:
        self.app: Celery = make_app(self.env)
        self.progress = CeleryProgress.of(self.app)
        self.progress.migrate()
        self.out = self.folder / "body.out"

    def work(self, number: int, **options: Any) -> Any:
        """A chunk."""
        return self.app.signature("work", args=(number,), kwargs=options)

    def merge(self, **options: Any) -> Any:
        """The body."""
        return self.app.signature("merge", args=(str(self.out),), kwargs=options)

    def chord(self, header: list[Any], body: Any = None, **options: Any) -> tracked_chord:
        """A tracked chord of these chunks, five pages each."""
        ranges = [(index * 5 + 1, index * 5 + 5) for index in range(len(header))]
        return tracked_chord(
            header,
            body if body is not None else self.merge(),
            **{"matter_id": "m", "document_id": "d", "ranges": ranges, "app": self.app, **options},
        )

    def effects(self) -> list[str]:
        """What the body did, a line a time."""
        return self.out.read_text().splitlines() if self.out.exists() else []

    def once(self, name: str = "once") -> str:
        """A path for a deed that is done once."""
        return str(self.folder / name)

    def start_worker(
        self,
        worker: Callable[..., WorkerProcess],
        *points: FaultPoint,
        args: Sequence[str] = (),
        beat: bool = True,
        **conf: Any,
    ) -> WorkerProcess:
        """Two processes, and beat, so that the reconciler runs.

        :param points: where they go wrong.
        :param beat: False where the reconciler must not mend what the test looks at.
        :param conf: settings of Celery that differ from those of the test app.
        """
        ticks = ["-B", "--schedule", str(self.folder / "beat")] if beat else []
        env = {**self.env, **fault_points.environment(*points), "CHORD_APP_CONF": json.dumps(conf)}
        return worker(MODULE, env=env, args=[*ticks, *args])

    def point(self, at: str, deed: str, *, chunk: int | None = None, until: str = "") -> FaultPoint:
        """A fault that strikes once."""
        return FaultPoint(at, deed, once=self.once(f"struck-{at}-{chunk}"), chunk=chunk, until=until)

    def struck(self, point: FaultPoint) -> bool:
        """Whether it has."""
        return Path(point.once).exists()

    def assert_healed(
        self,
        job: TrackedJob,
        *,
        total: int,
        failed: Sequence[int] = (),
        story: Sequence[str] = (),
        timeout: float = 40.0,
    ) -> JobSnapshot:
        """Follow a job to its end: each chunk counted once, one effect of the body with just the completed ones.

        :param failed: the chunks that are named as failed.
        :param story: events that the history tells, in this order, others between them.
        """
        last = follow(job, timeout=timeout)[-1]
        assert last.status is (JobStatus.PARTIAL if failed else JobStatus.COMPLETED)
        assert (last.chunks.completed, last.chunks.failed) == (total - len(failed), len(failed))
        assert [failure.chunk_index for failure in last.failures] == list(failed)
        [effect] = self.effects()
        assert effect.endswith(str([number for number in range(total) if number not in failed]))
        assert self.progress.audit() == []
        history = self.progress.jobs.history(job.id)
        versions = [event["version"] for event in history]
        assert versions == sorted(set(versions))
        types = [event["type"] for event in history]
        completed = [event["chunk_index"] for event in history if event["type"] == "chunk_completed"]
        assert sorted(completed) == [number for number in range(total) if number not in failed]
        told = iter(types)
        assert all(event in told for event in story), f"{list(story)} is not the order of {types}"
        return last

    def events(self, job: TrackedJob) -> list[str]:
        """What happened, by name."""
        return [event["type"] for event in self.progress.jobs.history(job.id)]

    def close(self) -> None:
        """Close every connection of the publisher's side; Celery leaves some to the garbage collector."""
        if hasattr(self.app.backend, "result_consumer"):  # Redis
            self.app.backend.result_consumer.stop()
            self.app.backend.client.connection_pool.disconnect()
        self.app.close()
        kombu.pools.reset()
        gc.collect()
        self.progress.database.dispose()


def follow(job: TrackedJob, timeout: float = 30.0) -> list[JobSnapshot]:
    """Every snapshot seen to the end of the job; neither the version nor the percent ever goes down.

    :raises AssertionError: when it does not end in time.
    """
    seen = list(job.watch(timeout=timeout))
    assert seen[-1].status.terminal, f"not over after {timeout:g} s: {seen[-1]}"
    versions = [snapshot.version for snapshot in seen]
    assert versions == sorted(versions)
    percents = [snapshot.progress_pct for snapshot in seen]
    assert percents == sorted(percents)
    return seen


def environment(redis_url: str, database_url: str, *, broker_url: str | None = None) -> Mapping[str, str]:
    """What both sides run with; Redis is the broker too unless told otherwise."""
    return {
        "CELERY_BROKER_URL": broker_url or redis_url,
        "CELERY_RESULT_BACKEND": redis_url,
        "PROGRESS_DATABASE_URL": database_url,
    }


@pytest.fixture
def chords(redis_url: str, database_url: str, tmp_path: Path) -> Iterator[Bench]:
    """A tracked chord's surroundings, on SQLite and on PostgreSQL."""
    bench = Bench(dict(environment(redis_url, database_url)), tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def rabbit_chords(rabbit_url: str, redis_url: str, postgres_url: str, tmp_path: Path) -> Iterator[Bench]:
    """With RabbitMQ as the broker, Redis for results."""
    bench = Bench(dict(environment(redis_url, postgres_url, broker_url=rabbit_url)), tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def sqlite_chords(redis_url: str, sqlite_url: str, tmp_path: Path) -> Iterator[Bench]:
    """The same where the database makes no difference."""
    bench = Bench(dict(environment(redis_url, sqlite_url)), tmp_path)
    yield bench
    bench.close()


@pytest.fixture(params=["redis", "rabbitmq"])
def any_broker(request: pytest.FixtureRequest) -> Bench:
    """With either broker; on PostgreSQL with RabbitMQ, on SQLite with Redis."""
    names = {"redis": "sqlite_chords", "rabbitmq": "rabbit_chords"}
    bench: Bench = request.getfixturevalue(names[request.param])
    return bench
