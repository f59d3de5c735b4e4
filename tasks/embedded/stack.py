"""The whole service on one machine: what runs, in which order, with which settings.

What the environment says already wins: with ``CELERY_BROKER_URL`` set, no embedded server is started, and so on.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import secrets
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from celery_progress_ext.private_files import PrivateFiles
from tasks.embedded.runner import STOP, Runner, Service, StopPlan
from tasks.embedded.servers import LOOPBACK, RedisServer, free_port
from tasks.environment import check
from tasks.keys import ANY_MATTER, make_key
from tasks.secret_files import kept_secret
from tasks.settings import whole_number

ROOT = Path(__file__).resolve().parents[2]

#: A warm shutdown finishes the chunk at work; a cold one gives it back to the queue; what is killed comes back by the
#: reconciler alone.
_STOP_WORKER: StopPlan = ((signal.SIGTERM, 30.0), (signal.SIGQUIT, 5.0))
_STOP_WEB: StopPlan = ((signal.SIGTERM, 8.0),)

_REDIS_URLS = ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "PROGRESS_REDIS_URL")
_PORT, _FLOWER_PORT = 8000, 5555
#: What is kept in a data directory.
_KEPT = ("documents", "redis", "progress.db*", "celerybeat-schedule*", "secret_key", "lock", "logs", "running.json")


class AlreadyRunning(RuntimeError):
    """Another instance uses this data directory; stop it, or give another one with --data-dir."""


class PortTaken(RuntimeError):
    """Something else listens on the port; choose another with --port."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What is to be run, and where a person finds it."""

    services: tuple[Service, ...]
    environment: Mapping[str, str]
    web_url: str | None = None
    flower_url: str | None = None
    #: Of the web process, without a token, and a key for it: what the commands of this user come in with.
    address: str = ""
    key: str = ""


@contextlib.contextmanager
def held(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process alone; the lock goes with the process, however it ends.

    :raises AlreadyRunning: when another process holds it.
    """
    _make_private(data_dir)
    path = data_dir / "lock"
    PrivateFiles().make_file(path)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise AlreadyRunning(
                f"{data_dir} is in use by {holder}: stop it, or give another directory with --data-dir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def _make_private(data_dir: Path) -> None:
    """Make the folder for its owner alone; one that is there is tightened, with what is in it."""
    files = PrivateFiles()
    files.make_folder(data_dir)
    if data_dir.resolve() in (Path.cwd(), Path.home()):
        # A folder with other things in it: ours among them alone.
        for name in _KEPT:
            for path in data_dir.glob(name):
                files.tighten(path)
    else:
        files.tighten(data_dir)


def plan_up(data_dir: Path, *, port: int | None, workers: int, environ: Mapping[str, str] | None = None) -> Stack:
    """The service that a browser talks to, on loopback.

    :param port: the web's; 0 for any that is free, None for the environment's.
    :param workers: how many chunks are worked on at once.
    :raises PortTaken: when something listens on ``port``.
    :raises InvalidSetting: for a setting of the environment that cannot be used.
    """
    given = os.environ if environ is None else environ
    if port is None:
        port = whole_number(given, "PORT", _PORT, range(65536))
    port = port or free_port()
    if not _is_free(port):
        raise PortTaken(f"port {port} is in use; choose another with --port")
    token = given.get("PROGRESS_START_TOKEN") or secrets.token_urlsafe(15)
    kept = kept_secret(data_dir / "secret_key")
    _, key = make_key()
    api_keys = {**check(given).api_keys, key: [ANY_MATTER]}
    server, settings = _settings(data_dir, given)
    settings |= {
        "PROGRESS_API_KEYS": json.dumps(api_keys),
        "PROGRESS_START_TOKEN": token,
        "PROGRESS_SECRET_KEY": given.get("PROGRESS_SECRET_KEY") or kept,
        "PORT": str(port),
        "WEB_CONCURRENCY": str(whole_number(given, "WEB_CONCURRENCY", 1, range(1, 1000))),
    }
    services = [*_core(data_dir, server, settings, workers), _web(settings, port)]
    flower_url = None
    if importlib.util.find_spec("flower") is not None:
        flower_port = whole_number(given, "FLOWER_PORT", _FLOWER_PORT, range(65536))
        # Nobody depends on its port, and 0 asks for any.
        flower_port = flower_port if flower_port and _is_free(flower_port) else free_port()
        # Whoever opens Flower may stop the worker, so it is not open to every user of the machine.
        account = given.get("FLOWER_BASIC_AUTH") or f"flower:{secrets.token_urlsafe(16)}"
        services.append(_flower({**settings, "FLOWER_BASIC_AUTH": account}, flower_port))
        flower_url = f"http://{account}@{LOOPBACK}:{flower_port}/"
    return Stack(
        services=tuple(services),
        environment=settings,
        web_url=f"http://{LOOPBACK}:{port}/?token={token}",
        flower_url=flower_url,
        address=f"http://{LOOPBACK}:{port}",
        key=key,
    )


def plan_ephemeral(folder: Path, *, workers: int, settings: Mapping[str, str] | None = None) -> Stack:
    """Queue, worker and beat alone, for one job: everything is in ``folder``, whatever the environment says."""
    server, own = _settings(folder, {})
    own |= settings or {}
    return Stack(services=tuple(_core(folder, server, own, workers)), environment=own)


def run(
    stack: Stack, say: Callable[[str, str], None], on_start: Callable[[Service], None] = lambda _service: None
) -> Runner:
    """A runner for it; entering it starts everything."""
    return Runner(stack.services, say, on_start)


def _settings(data_dir: Path, given: Mapping[str, str]) -> tuple[RedisServer | None, dict[str, str]]:
    """The embedded server, where one is needed, and the settings that every process gets."""
    data_dir = data_dir.resolve()
    server = None
    urls = {name: given[name] for name in _REDIS_URLS if given.get(name)}
    if "CELERY_BROKER_URL" not in urls:
        server = RedisServer(data_dir / "redis")
        urls = {**dict.fromkeys(_REDIS_URLS, server.url), **urls}
    elif "CELERY_RESULT_BACKEND" not in urls and urls["CELERY_BROKER_URL"].startswith(("redis://", "rediss://")):
        urls["CELERY_RESULT_BACKEND"] = urls["CELERY_BROKER_URL"]
    settings = {
        "PROGRESS_DATABASE_URL": f"sqlite:///{data_dir / 'progress.db'}",
        "DOCUMENTS_URL": (data_dir / "documents").as_uri(),
        # Chunks run side by side already; threads inside one would only take turns.
        "OMP_THREAD_LIMIT": "1",
    }
    settings |= {name: given[name] for name in settings if given.get(name)}
    return server, {**settings, **urls}


def _core(data_dir: Path, server: RedisServer | None, settings: Mapping[str, str], workers: int) -> list[Service]:
    data_dir = data_dir.resolve()
    services = []
    if server is not None:
        services.append(
            Service(name="redis", argv=server.command(), ready=server.answers, purpose="queue and live stream")
        )
    services += [
        _celery("tables", ["progress", "migrate"], settings, once=True, purpose="jobs and their history"),
        _celery(
            "worker",
            [
                *("worker", "-E", "-O", "fair", "--pool", "prefork", "--concurrency", str(workers)),
                *("--without-gossip", "--without-mingle", "--loglevel", "INFO"),
            ],
            settings,
            purpose=f"reads pages, {workers} at once" if workers > 1 else "reads pages",
            ready_line=" ready.",
            stop=_STOP_WORKER,
        ),
        _celery(
            "beat",
            ["beat", "--schedule", str(data_dir / "celerybeat-schedule"), "--pidfile=", "--loglevel", "INFO"],
            settings,
            purpose="finds and mends what was lost",
            ready_line="beat: Starting",
        ),
    ]
    return services


def _web(settings: Mapping[str, str], port: int) -> Service:
    return Service(
        name="web",
        purpose="page and API",
        argv=[sys.executable, "-m", "gunicorn", "-c", str(ROOT / "web" / "gunicorn_conf.py"), "web:create_app()"],
        env=settings,
        cwd=ROOT,
        ready=lambda: _answers(f"http://{LOOPBACK}:{port}/readyz"),
        stop=_STOP_WEB,
    )


def _flower(settings: Mapping[str, str], port: int) -> Service:
    service = _celery(
        "flower",
        ["flower", f"--conf={ROOT / 'tasks' / 'flower_conf.py'}", f"--address={LOOPBACK}", f"--port={port}"],
        settings,
        purpose="a look into Celery",
        ready=lambda: _answers(f"http://{LOOPBACK}:{port}/healthcheck"),
    )
    # Told to end when Redis dies with it, it waits for a thread that asks the broker for ever; it keeps nothing.
    return replace(service, orphan_signal=signal.SIGKILL)


def _celery(
    name: str,
    arguments: list[str],
    settings: Mapping[str, str],
    *,
    purpose: str,
    ready: Callable[[], bool] | None = None,
    ready_line: str | None = None,
    stop: StopPlan = STOP,
    once: bool = False,
) -> Service:
    return Service(
        name=name,
        purpose=purpose,
        argv=[sys.executable, "-m", "celery", "--quiet", "-A", "tasks.celery_app", *arguments],
        env=settings,
        cwd=ROOT,
        ready=ready,
        ready_line=ready_line,
        once=once,
        stop=stop,
    )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
