"""What the service answers under gunicorn while something it stands on hangs or is away: within a second, by parts."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg2
import pytest
from celery import Celery

from celery_progress_ext import CeleryProgress
from tasks.embedded.servers import RedisServer, free_port
from tasks.sample import make_sample
from tests.support.faultproxy import FaultProxy
from tests.support.processes import TestProcess, WorkerProcess
from tests.support.waiting import wait_for

KEY = "key-for-outages"
OK = dict.fromkeys(("database", "redis", "queue", "store"), "ok")


@dataclass
class Web:
    """A real web process and what it stands on."""

    url: str
    folder: Path
    database_url: str
    redis: RedisServer
    proxy: FaultProxy | None
    process: TestProcess
    env: dict[str, str]

    def get(self, path: str, **options: object) -> httpx.Response:
        """An answer that came within a second."""
        started = time.monotonic()
        answer = httpx.get(f"{self.url}{path}", timeout=5, **options)  # type: ignore[arg-type]
        assert time.monotonic() - started < 1.0, f"{path} took {time.monotonic() - started:.2f} s"
        return answer

    def upload(self, content: bytes) -> httpx.Response:
        """A document for matter m1."""
        return httpx.post(
            f"{self.url}/api/documents",
            data={"matter_id": "m1"},
            files={"file": ("scan.pdf", io.BytesIO(content))},
            headers={"Authorization": f"Bearer {KEY}", "X-Request-ID": "from-the-proxy-1"},
            timeout=40,
        )


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """One page."""
    path = tmp_path_factory.mktemp("sample") / "sample.pdf"
    make_sample(path, pages=1, dpi=72)
    return path.read_bytes()


@contextmanager
def served(database_url: str, redis: RedisServer, folder: Path, proxy: FaultProxy | None = None) -> Iterator[Web]:
    """As the Procfile runs it."""
    celery = Celery("outages", broker=redis.url, set_as_current=False)
    celery.conf.update(progress_database_url=database_url, progress_redis_url=redis.url)
    progress = CeleryProgress(celery)
    progress.migrate()
    progress.database.dispose()
    port = free_port()
    env = {
        "CELERY_BROKER_URL": redis.url,
        "CELERY_RESULT_BACKEND": redis.url,
        "PROGRESS_DATABASE_URL": proxy.url(database_url) if proxy else database_url,
        "PROGRESS_API_KEYS": json.dumps({KEY: ["*"]}),
        "PROGRESS_SECRET_KEY": "a-secret-for-outages",
        "DOCUMENTS_URL": (folder / "documents").as_uri(),
        "PORT": str(port),
        "GUNICORN_CMD_ARGS": "--access-logfile -",
    }
    argv = [sys.executable, "-m", "gunicorn", "--config", "web/gunicorn_conf.py", "web:create_app()"]
    process = TestProcess(argv, log=folder / "web.log", env=env)
    process.start()
    try:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            try:
                return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(ready, 30, what="the web process")
        yield Web(url, folder, database_url, redis, proxy, process, env)
    finally:
        process.kill()


@contextmanager
def sqlite_locked(web: Web) -> Iterator[None]:
    """Another process holds the write lock."""
    connection = sqlite3.connect(web.database_url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    yield
    connection.close()


@contextmanager
def store_gone(web: Web) -> Iterator[None]:
    """Its folder is not one any more, as where a mount was lost."""
    shutil.rmtree(web.folder / "documents")
    (web.folder / "documents").touch()
    yield


@contextmanager
def redis_frozen(web: Web) -> Iterator[None]:
    """It takes connections and says nothing."""
    assert web.redis._popen is not None
    web.redis._popen.send_signal(signal.SIGSTOP)
    yield
    web.redis._popen.send_signal(signal.SIGCONT)


@contextmanager
def redis_dead(web: Web) -> Iterator[None]:
    """It is gone."""
    web.redis.kill()
    yield


Outage = Callable[[Web], "contextmanager[None]"]


@pytest.mark.parametrize(
    ("outage", "parts", "status", "works", "uploaded"),
    [
        (sqlite_locked, {"database": "locked"}, 503, {"read": True, "submit": False}, None),
        (store_gone, {"store": "unreachable"}, 503, {"read": True, "submit": False, "results": False}, 503),
        (
            redis_frozen,
            {"redis": "late", "queue": "late"},
            200,
            {"submit": True, "live": True, "progress": False},
            None,
        ),
        (
            redis_dead,
            {"redis": "unreachable", "queue": "unreachable"},
            200,
            {"submit": True, "live": True, "progress": False},
            202,
        ),
    ],
    ids=["database locked", "store gone", "redis frozen", "redis dead"],
)
def test_each_outage_is_named_within_a_second(
    outage: Outage,
    parts: dict[str, str],
    status: int,
    works: dict[str, bool],
    uploaded: int | None,
    sqlite_url: str,
    own_redis: RedisServer,
    tmp_path: Path,
    sample: bytes,
) -> None:
    """Asked again and again, and what is said of uploads is what becomes of one."""
    with served(sqlite_url, own_redis, tmp_path) as web:
        assert web.get("/readyz").json()["checks"] == OK
        with outage(web):
            for _ in range(3):
                assert web.get("/healthz").status_code == 200
                ready = web.get("/readyz")
                body = ready.json()
                assert (ready.status_code, body["checks"]) == (status, {**OK, **parts})
                assert body["status"] == ("degraded" if status == 200 else "unavailable")
                assert works.items() <= body["works"].items()
                metrics = web.get("/metrics")
                assert metrics.status_code == 200
                for part in OK:
                    assert f'progress_up{{part="{part}"}} {int(part not in parts)}' in metrics.text
            if uploaded is not None:
                answer = web.upload(sample)
                assert answer.status_code == uploaded, answer.text
                assert uploaded == 202 or "Retry-After" in answer.headers


def test_a_database_that_hangs(
    postgres_url: str, own_redis: RedisServer, tmp_path: Path, sample: bytes, fault_proxy: Callable[[str], FaultProxy]
) -> None:
    """Its tables are locked, then it says nothing at all. A new stream begins with the kept snapshot meanwhile."""
    with served(postgres_url, own_redis, tmp_path, fault_proxy(postgres_url)) as web:
        job_id = web.upload(sample).json()["job_id"]
        lock = psycopg2.connect(postgres_url.replace("+psycopg2", ""))
        with lock, lock.cursor() as cursor:
            cursor.execute("LOCK TABLE processing_jobs IN ACCESS EXCLUSIVE MODE")
            _hanging(web, job_id, "locked")
        lock.close()
        wait_for(lambda: web.get("/readyz").status_code == 200, 20, what="the lock to be forgotten")
        assert web.proxy is not None
        web.proxy.stall()
        _hanging(web, job_id, "late")
        assert "progress_jobs{" not in web.get("/metrics").text


def _hanging(web: Web, job_id: str, verdict: str) -> None:
    for _ in range(3):
        assert web.get("/healthz").status_code == 200
        ready = web.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]) == (503, {**OK, "database": verdict})
        assert f'progress_up{{part="database"}} {0}' in web.get("/metrics").text
    started = time.monotonic()
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.stream("GET", f"{web.url}/api/jobs/{job_id}/events", headers=headers, timeout=5) as stream:
        text = ""
        for part in stream.iter_text():
            text += part
            if f'"job_id":"{job_id}"' in text:
                break
    assert time.monotonic() - started < 1.5


def test_a_request_is_traceable_and_its_log_names_no_secret(
    sqlite_url: str, own_redis: RedisServer, tmp_path: Path, sample: bytes, worker: Callable[..., WorkerProcess]
) -> None:
    """The proxy's id is in the answer, in the lines here and in the worker; one that cannot be an id is not."""
    with served(sqlite_url, own_redis, tmp_path) as web:
        answer = web.upload(sample)
        assert answer.headers["X-Request-ID"] == "from-the-proxy-1"
        web.get("/?token=a-secret-token", headers={"X-Request-ID": "two\twords"})
        web.get("/api/jobs", headers={"Authorization": "Bearer a-wrong-secret"})
        made = httpx.post(
            f"{web.url}/api/jobs/{answer.json()['job_id']}/tokens",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=5,
        ).json()
        for link in ("job", "celery_progress"):
            assert httpx.get(f"{web.url}{made['links'][link]}", timeout=5).status_code == 200
        lines = wait_for(
            lambda: found if len(found := [e for e in web.process.log.splitlines() if "'request'" in e]) > 5 else None,
            5,
        )
        # gunicorn's own log of accesses, and ours.
        wait_for(lambda: web.process.log.count("/prog_***/") == 2, 5, what="the path without its token")
        assert made["token"].removeprefix("prog_") not in web.process.log
        (upload,) = [line for line in lines if "/api/documents" in line]
        assert "request_id='from-the-proxy-1'" in upload
        assert "address='127.0.0.1'" in upload
        (refused,) = [line for line in web.process.log.splitlines() if "sign_in_refused" in line]
        assert "request_id=" in refused
        assert not any(word in web.process.log for word in ("a-secret-token", "a-wrong-secret", "two\twords", KEY))
        import redis

        with redis.Redis.from_url(own_redis.url, socket_timeout=5) as client:
            messages = [json.loads(raw) for raw in client.lrange("celery", 0, -1)]
        assert messages
        assert {message["headers"]["request_id"] for message in messages} == {"from-the-proxy-1"}
        process = worker("tasks.celery_app", concurrency=1, env=web.env)
        for event in ("chunk_completed", "merge_started"):
            wait_for(lambda event=event: event in process.log, 30, what=event)
            line = next(line for line in process.log.splitlines() if event in line)
            assert "request_id='from-the-proxy-1'" in line
