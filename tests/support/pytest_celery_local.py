"""pytest-celery's ``celery_setup`` on local processes: its fixtures that need Docker, replaced one by one.

``LocalProcess`` answers what pytest-celery and pytest_docker_tools ask of a container. A plugin: ``conftest.py`` names
it in ``pytest_plugins``, after which these fixtures win over pytest-celery's.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryWorkerContainer,
    RedisContainer,
    RedisTestBackend,
    RedisTestBroker,
)

from tasks.embedded.servers import find_redis_server, free_port
from tests.support.processes import TestProcess
from tests.support.waiting import wait_for

_READY_SECONDS = 30.0


class LocalProcess:
    """A process that looks like ``docker.models.containers.Container``."""

    def __init__(self, name: str, folder: Path) -> None:
        self.id = uuid4().hex
        self.name = f"{name}-{self.id[:6]}"
        self.folder = folder
        self.process: TestProcess | None = None
        self.attrs: dict[str, Any] = {
            "Config": {"Hostname": "127.0.0.1", "Env": [], "Labels": {}},
            "NetworkSettings": {"Networks": {}, "Ports": {}},
            "HostConfig": {"PortBindings": {}},
        }

    def run(self, argv: list[str], env: dict[str, str] | None = None, python_path: tuple[Path, ...] = ()) -> None:
        """Start the process that this stands for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{self.name}.log"
        self.process = TestProcess(argv, log=log, env=env, cwd=self.folder, python_path=python_path).start()

    @property
    def status(self) -> str:
        """As ``docker ps`` says it."""
        if self.process is None:
            return "created"
        return "running" if self.process.alive else "exited"

    def reload(self) -> None:
        """The status is always fresh."""

    def logs(self) -> bytes:
        """What it has printed."""
        return self.process.log.encode() if self.process else b""

    def kill(self, signal: str | int | None = None) -> None:
        """``docker kill``: SIGKILL ends the whole container, another signal goes to its first process."""
        number = _signal_number(signal)
        if self.process is None:
            return
        if number == _KILL:
            self.process.kill()
        elif self.process.alive:
            self.process.signal(number)

    def stop(self, timeout: float = 10) -> None:
        """``docker stop``."""
        if self.process is not None and self.process.alive:
            self.process.stop(timeout)
        self.kill()

    def restart(self, timeout: float = 10) -> None:
        """``docker restart``; the log is kept."""
        assert self.process is not None
        self.stop(timeout)
        self.process.start()

    def exec_run(self, command: str | list[str], **_: Any) -> tuple[int, bytes]:
        """``docker exec``: the exit code and what the command printed."""
        assert self.process is not None
        argv = shlex.split(command) if isinstance(command, str) else list(command)
        if argv[0] == "python":
            argv[0] = sys.executable
        done = subprocess.run(argv, cwd=self.folder, env=self.process.env, capture_output=True, timeout=30, check=False)
        return done.returncode, done.stdout + done.stderr

    def remove(self, **_: Any) -> None:
        """``docker rm -f``."""
        self.kill()


_KILL = signal.SIGKILL


def _signal_number(name: str | int | None) -> signal.Signals:
    if name is None:
        return _KILL
    if isinstance(name, int):
        return signal.Signals(name)
    return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]


class _Local:
    """What pytest_docker_tools asks Docker: is it ready. Here the log says so."""

    _container: LocalProcess
    ready_prompt: str

    def ready(self) -> bool:
        return self.ready_prompt in self._log()

    def wait_ready(self, times: int = 1) -> None:
        """Wait until it has said that it is ready so many times: once per start."""

        def said() -> bool:
            assert self._container.status == "running", self._log()[-3000:]
            return self._log().count(self.ready_prompt) >= times

        wait_for(said, _READY_SECONDS, what=f"{self._container.name} ready")

    def restart(self, timeout: float = 10) -> None:
        seen = self._log().count(self.ready_prompt)
        self._container.restart(timeout)
        self.wait_ready(seen + 1)

    def _log(self) -> str:
        return self._container.logs().decode(errors="replace")


class LocalRedisContainer(_Local, RedisContainer):  # type: ignore[misc]
    """A server on loopback: the worker's URL and the test's are the same."""

    _port: int

    @property
    def hostname(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def host_url(self) -> str:
        return str(self.url)

    @property
    def port(self) -> int:
        return self._port

    @classmethod
    def launch(cls, folder: Path) -> LocalRedisContainer:
        """Start one and wait for it."""
        local, port = LocalProcess("redis", folder), free_port()
        local.run([str(find_redis_server()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)])
        container = cls(local)
        container._port = port
        container.wait_ready()
        return container


class LocalWorkerContainer(_Local, CeleryWorkerContainer):  # type: ignore[misc]
    """A prefork worker of two."""

    ready_prompt = " ready."

    @classmethod
    def command(cls, *args: str, **options: Any) -> list[str]:
        pool = ("--pool", "prefork", "--concurrency", "2", "--without-mingle", "--without-gossip")
        return list(super().command(*pool, *args, **options))

    @classmethod
    def worker_queue(cls) -> str:
        return "celery"

    @classmethod
    def launch(cls, folder: Path, command: list[str], env: dict[str, str], files: dict[str, bytes]) -> Any:
        """Write the app that pytest-celery made for the worker, start it and wait for it."""
        local = LocalProcess("worker", folder)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        # pytest-celery expects the container's id as the worker's host name.
        argv = [sys.executable, "-m", *(part.replace("@%h", f"@{local.id[:12]}") for part in command)]
        local.run(argv, env, (folder,))
        container = cls(local)
        container.wait_ready()
        return container


@pytest.fixture
def default_redis_broker(tmp_path: Path) -> Iterator[LocalRedisContainer]:
    """The broker."""
    container = LocalRedisContainer.launch(tmp_path / "redis")
    yield container
    container._container.remove()


@pytest.fixture
def default_redis_backend(default_redis_broker: LocalRedisContainer) -> LocalRedisContainer:
    """The result backend: the same server plays both roles."""
    return default_redis_broker


@pytest.fixture
def celery_broker_cluster(celery_redis_broker: RedisTestBroker) -> Iterator[CeleryBrokerCluster]:
    """Redis alone: pytest-celery would run each test for every vendor, in an order that changes from run to run."""
    cluster = CeleryBrokerCluster(celery_redis_broker)
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster(celery_redis_backend: RedisTestBackend) -> Iterator[CeleryBackendCluster]:
    """Redis alone."""
    cluster = CeleryBackendCluster(celery_redis_backend)
    yield cluster
    cluster.teardown()


@pytest.fixture
def default_worker_container_cls() -> type[LocalWorkerContainer]:
    """What runs the worker."""
    return LocalWorkerContainer


@pytest.fixture
def default_worker_container(
    tmp_path: Path,
    default_worker_container_cls: type[LocalWorkerContainer],
    default_worker_command: list[str],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
) -> Iterator[LocalWorkerContainer]:
    """The worker."""
    container = default_worker_container_cls.launch(
        tmp_path / "worker", default_worker_command, default_worker_env, default_worker_initial_content
    )
    yield container
    container._container.remove()
