"""The servers and processes of a chaos run, and what a schedule may do to them.

Everything is struck and put back by one thread: Linux ends these processes when the thread that started them does.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import redis

from tasks.embedded.servers import PostgresServer, RedisServer, ServerFailed, free_port
from tests.support.chaos import CLIENTS, ON_THE_WAY, SETTINGS, Step
from tests.support.chords import environment
from tests.support.faultproxy import FaultProxy
from tests.support.processes import BeatProcess, TestProcess, WorkerProcess
from tests.support.rabbit import RabbitServer
from tests.support.services import rabbit_or_skip

MODULE = "tests.support.chaos_app"
#: What a supervisor gives a process to end by itself, before it kills it. Seconds.
GRACE = 6.0
_TURN = 0.05


class Stage:
    """Two workers, a beat, a web server and the servers behind them; every client has a way of its own to each server.

    :param setting: a name of ``chaos.SETTINGS``.
    :param visibility: seconds after which Redis delivers again what a worker has not acknowledged.
    """

    def __init__(self, folder: Path, setting: str, *, visibility: float) -> None:
        self.folder = folder
        #: What happened beside the schedule, for the failure's report: a process that ended by itself.
        self.notes: list[str] = []
        self._visibility = visibility
        self._exit = ExitStack()
        self._redis = RedisServer(folder / "redis", port=free_port())
        self._postgres = PostgresServer() if SETTINGS[setting].database == "postgres" else None
        self._rabbit = rabbit_or_skip(folder / "rabbit") if SETTINGS[setting].broker == "rabbitmq" else None
        self._sqlite = folder / "progress.db"
        self._ways: dict[str, dict[str, FaultProxy]] = {"redis": {}, "database": {}, "rabbit": {}}
        self._processes: dict[str, TestProcess] = {}
        #: The deed that each actor is under now, and since when.
        self._struck: dict[str, tuple[Step, float]] = {}
        self._lock: sqlite3.Connection | None = None
        #: The outage after which RabbitMQ was started again.
        self._rabbit_started: Step | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._redis)
            if self._postgres is not None:
                stack.enter_context(self._postgres)
            if self._rabbit is not None:
                stack.enter_context(self._rabbit)
            for client in CLIENTS:
                self._ways["redis"][client] = stack.enter_context(FaultProxy.before(self._redis.url))
                if self._postgres is not None:
                    self._ways["database"][client] = stack.enter_context(FaultProxy.before(self._postgres.url))
                if self._rabbit is not None:
                    self._ways["rabbit"][client] = stack.enter_context(FaultProxy.before(self._rabbit.url))
            self._processes = self._cast()
            for process in self._processes.values():
                stack.callback(process.kill)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()
        self._exit.close()

    @property
    def web_port(self) -> int:
        """Where the live streams are."""
        return int(self._processes["web"].env["PORT"])

    @property
    def redis_url(self) -> str:
        """The server itself, past every proxy."""
        return self._redis.database_url(0)

    def environment(self, client: str) -> dict[str, str]:
        """What a client runs with: by way of its own proxies."""
        database = f"sqlite:///{self._sqlite}"
        if self._postgres is not None:
            database = self._ways["database"][client].url(self._postgres.url)
        broker = None if self._rabbit is None else self._ways["rabbit"][client].url(self._rabbit.url)
        return {
            **environment(self._ways["redis"][client].url(self.redis_url), database, broker_url=broker),
            # No chunk is given up here: that would be right, and a matter of luck.
            "PROGRESS_MAX_ATTEMPTS": "1000",
            "CHAOS_VISIBILITY_SECONDS": str(self._visibility),
            "CHAOS_TICKS": str(self.folder / "ticks"),
        }

    @property
    def ticks(self) -> int:
        """How many ticks ran to their end so far."""
        path = self.folder / "ticks"
        return path.stat().st_size if path.exists() else 0

    def start(self) -> None:
        """Start what is struck later."""
        for name, process in self._processes.items():
            if name != "beat2":
                process.start(wait=False)
        for name, process in self._processes.items():
            if name != "beat2":
                process.wait_ready()

    def play(self, steps: Sequence[Step], seconds: float) -> None:
        """Strike and put back by the schedule, restart what ends by itself; then put everything back up."""
        begun = time.monotonic()
        numbers = count()
        due: list[tuple[float, int, Callable[[], bool]]] = []
        for step in steps:
            heapq.heappush(due, (step.at, next(numbers), lambda step=step: self._do(step)))
            heapq.heappush(due, (step.at + step.hold, next(numbers), lambda step=step: self._undo(step)))
        while due or time.monotonic() - begun < seconds:
            now = time.monotonic() - begun
            if due and due[0][0] <= now:
                _, number, act = heapq.heappop(due)
                if not act():
                    heapq.heappush(due, (now + _TURN, number, act))
            else:
                self._supervise()
                time.sleep(_TURN)
        for ways in self._ways.values():
            for way in ways.values():
                way.up()

    def supervise(self) -> None:
        """Restart what has ended by itself."""
        self._supervise()

    def logs(self) -> str:
        """Where to read what each process said."""
        return ", ".join(f"{name}: {process.log_path}" for name, process in self._processes.items())

    def _cast(self) -> dict[str, TestProcess]:
        cast: dict[str, TestProcess] = {}
        for name, concurrency in (("worker1", 2), ("worker2", 1)):
            cast[name] = WorkerProcess(
                MODULE,
                log=self.folder / f"{name}.log",
                concurrency=concurrency,
                name=name,
                env=self.environment(name),
            )
        for name in ("beat", "beat2"):
            cast[name] = BeatProcess(MODULE, log=self.folder / f"{name}.log", env=self.environment("beat"))
        argv = [sys.executable, "-m", "gunicorn", "-c", "web/gunicorn_conf.py", f"{MODULE}:create_web()"]
        cast["web"] = TestProcess(
            argv,
            log=self.folder / "web.log",
            env={**self.environment("web"), "PORT": str(free_port())},
            ready_line="Listening at",
        )
        return cast

    def _do(self, step: Step) -> bool:
        """Strike; False where the one before is not undone yet."""
        if step.actor in self._struck:
            return False
        self._struck[step.actor] = step, time.monotonic()
        if step.deed in ON_THE_WAY:
            for way in self._ways_of(step):
                {"cut": way.down, "stall": way.stall, "deafen": way.deafen}[step.deed]()
        elif step.actor in self._processes:
            self._strike(self._processes[step.actor], step)
        elif step.deed == "lock":
            self._lock = sqlite3.connect(self._sqlite, timeout=5, isolation_level=None)
            # A frozen process may hold the lock already, and is not thawed before this returns: as good as ours.
            with contextlib.suppress(sqlite3.OperationalError):
                self._lock.execute("BEGIN IMMEDIATE")
        elif step.deed == "fill":
            self._limit_memory(1)
        elif step.deed == "flush":
            with redis.Redis.from_url(self.redis_url, socket_timeout=5) as client:
                client.flushall()
        elif step.actor == "rabbit" and self._rabbit is not None:
            self._rabbit.kill() if step.deed == "kill" else self._rabbit.ask_to_stop()
        else:
            server = self._server(step.actor)
            server.kill() if step.deed == "kill" else server.stop()
        return True

    def _undo(self, step: Step) -> bool:
        """Put back what :meth:`_do` did; False where it has to be asked again."""
        if self._struck.get(step.actor, (None,))[0] is not step:
            return False
        if step.deed in ON_THE_WAY:
            for way in self._ways_of(step):
                way.up()
        elif step.deed == "fill":
            self._limit_memory(0)
        elif step.actor in self._processes:
            return self._put_back(self._processes[step.actor], step)
        elif step.deed == "lock":
            self._unlock()
        elif step.actor == "rabbit" and self._rabbit is not None:
            if not self._rabbit_is_back(self._rabbit, step):
                return False
        elif step.deed in ("kill", "stop"):
            with contextlib.suppress(ServerFailed):  # the dead one's processes may still be ending
                self._server(step.actor).start()
            if not self._server(step.actor).answers():
                return False
        del self._struck[step.actor]
        return True

    def _rabbit_is_back(self, rabbit: RabbitServer, step: Step) -> bool:
        """Start it when it has ended, and look; it takes seconds, in which others are struck and put back."""
        if self._rabbit_started is not step:
            if rabbit.alive and time.monotonic() - self._struck["rabbit"][1] < GRACE + step.hold:
                return False
            rabbit.kill()
            rabbit.start(wait=False)
            self._rabbit_started = step
        elif not rabbit.alive:
            # The dead one's name or port was still taken.
            self._rabbit_started = None
        return rabbit.ready

    def _strike(self, process: TestProcess, step: Step) -> None:
        match step.deed:
            case "kill":
                process.kill()
            case "kill_child" if isinstance(process, WorkerProcess):
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, AssertionError):
                    pool = process.pool()
                    if pool:
                        process.kill_child(pool[int(step.pick * len(pool))])
            case "freeze":
                self._signal_group(process, signal.SIGSTOP)
            case "stop":
                process.signal(signal.SIGTERM)
            case "quit":
                process.signal(signal.SIGQUIT)
            case "double":
                self._processes["beat2"].start(wait=False)

    def _put_back(self, process: TestProcess, step: Step) -> bool:
        match step.deed:
            case "freeze":
                self._signal_group(process, signal.SIGCONT)
            case "double":
                self._processes["beat2"].kill()
            case "kill":
                process.start(wait=False)
            case "stop" | "quit":
                if process.alive and time.monotonic() - self._struck[step.actor][1] < GRACE + step.hold:
                    return False
                if process.alive:
                    self.notes.append(f"{step.actor} did not end within {GRACE:g} s of {step.deed}: killed")
                process.kill()
                process.start(wait=False)
        del self._struck[step.actor]
        return True

    def _supervise(self) -> None:
        for name, process in self._processes.items():
            if name != "beat2" and name not in self._struck and not process.alive:
                self.notes.append(f"{name} ended by itself with {process.popen.returncode}: started again")
                process.kill()
                process.start(wait=False)

    def _ways_of(self, step: Step) -> list[FaultProxy]:
        ways = self._ways[step.actor]
        return list(ways.values()) if step.whom == "all" else [ways[step.whom]]

    def _server(self, actor: str) -> RedisServer | PostgresServer:
        server = self._redis if actor == "redis" else self._postgres
        assert server is not None
        return server

    def _limit_memory(self, size: int) -> None:
        """Bytes that Redis may take; 0 for as many as it likes."""
        with redis.Redis.from_url(self.redis_url, socket_timeout=5) as client:
            client.config_set("maxmemory", size)

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    @staticmethod
    def _signal_group(process: TestProcess, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
