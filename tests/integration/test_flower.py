"""Flower, the dashboard of Celery, shows a chunk at work as PROGRESS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tasks.embedded.servers import free_port
from tests.support.chords import MODULE, Bench, follow
from tests.support.processes import ROOT, TestProcess, WorkerProcess
from tests.support.waiting import wait_for


@pytest.fixture
def flower(sqlite_chords: Bench) -> Iterator[str]:
    """The URL of a Flower of the test's own."""
    port = free_port()
    argv = [sys.executable, "-m", "celery", "-A", MODULE, "flower", "--address=127.0.0.1", f"--port={port}"]
    env = {**sqlite_chords.env, "FLOWER_UNAUTHENTICATED_API": "true"}
    process = TestProcess(argv, log=sqlite_chords.folder / "flower.log", env=env, ready_line="Visit me at")
    yield f"http://127.0.0.1:{port}" if process.start() else ""
    process.kill()


def test_the_service_s_flower_asks_for_credentials(redis_url: str, tmp_path: Path) -> None:
    """Everywhere, its metrics too; without any set it does not start."""
    port = free_port()
    line = next(line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("flower:"))
    env = {"CELERY_BROKER_URL": redis_url, "CELERY_RESULT_BACKEND": redis_url, "FLOWER_PORT": str(port)}
    argv = ["sh", "-c", f"exec {sys.executable} -m {line.partition(':')[2].strip()}"]
    bare = TestProcess(argv, log=tmp_path / "bare.log", env=env).start()
    assert bare.wait(30) != 0
    assert "FLOWER_BASIC_AUTH" in bare.log
    env["FLOWER_BASIC_AUTH"] = "ada:a-password"
    process = TestProcess(argv, log=tmp_path / "flower.log", env=env, ready_line="Visit me at").start()
    try:
        url = f"http://127.0.0.1:{port}"
        assert [httpx.get(f"{url}{path}", timeout=5).status_code for path in ("/metrics", "/", "/api/workers")] == [
            401
        ] * 3
        assert httpx.get(f"{url}/metrics", auth=("ada", "a-password"), timeout=5).status_code == 200
    finally:
        process.kill()


def test_flower_shows_the_progress_state(
    sqlite_chords: Bench, worker: Callable[..., WorkerProcess], flower: str
) -> None:
    """From the `task-progress` event; the result backend alone would leave it at STARTED there."""
    sqlite_chords.start_worker(worker)
    job = sqlite_chords.chord([sqlite_chords.work(0, pages=10, seconds=8)]).apply_async()

    def state() -> str | None:
        answer = httpx.get(f"{flower}/api/task/info/{job.id}.c0.1", timeout=5)
        return answer.json()["state"] if answer.status_code == 200 else None

    wait_for(lambda: state() == "PROGRESS", 20, what="Flower to show PROGRESS")
    follow(job)
    wait_for(lambda: state() == "SUCCESS", 10, what="Flower to show SUCCESS")
