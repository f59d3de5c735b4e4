"""Processes that run together: started in order, kept alive, stopped in the reverse order.

A stop signal goes to a process alone, never to its group: the children of a Celery worker must live until the worker
has let them finish. Only what does not end in time is killed, with its group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks.embedded.servers import die_with_parent

#: How a process is asked to stop: a signal, and the seconds that it gets, one row after the other. SIGKILL follows.
StopPlan = tuple[tuple[signal.Signals, float], ...]
STOP: StopPlan = ((signal.SIGTERM, 10.0),)

_POLL_SECONDS = 0.05
#: Waiting before a restart: doubled each time from the first to the last, and forgotten after a life this long.
_BACKOFF_FIRST, _BACKOFF_LAST, _STEADY_SECONDS = 0.5, 30.0, 60.0
_TAIL_LINES = 30


class StartFailed(RuntimeError):
    """A process ended, or was not ready in time, while everything was started; the message carries its last lines."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A process to run.

    It is ready when ``ready`` says so, and when it has printed ``ready_line``; with neither, at once. A job (``once``)
    is ready when it has ended well.
    """

    name: str
    argv: Sequence[str]
    #: What it is for, in a few words.
    purpose: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    ready: Callable[[], bool] | None = None
    ready_line: str | None = None
    start_seconds: float = 30.0
    stop: StopPlan = STOP
    #: What it gets from the kernel where the runner itself is killed.
    orphan_signal: signal.Signals = signal.SIGTERM
    #: A job, not a service: when it ends it has ended.
    once: bool = False


class _Running:
    """One service, over all its lives."""

    def __init__(self, service: Service, say: Callable[[str, str], None]) -> None:
        self.service = service
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.ready = False
        self.restart_at: float | None = None
        self._say = say
        self._backoff = _BACKOFF_FIRST
        self._started_at = 0.0
        self._line_seen = False
        self._buried = True
        self._pump: threading.Thread | None = None
        self.popen: subprocess.Popen[str] | None = None

    @property
    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    @property
    def drained(self) -> bool:
        """Whether its last line was read."""
        return self._pump is None or not self._pump.is_alive()

    def start(self) -> None:
        self.ready, self._line_seen, self._buried, self.restart_at = False, False, False, None
        self._started_at = time.monotonic()
        self.popen = subprocess.Popen(
            list(self.service.argv),
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.service.env},
            cwd=self.service.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            umask=0o077,
            preexec_fn=die_with_parent(self.service.orphan_signal),
        )
        self._pump = threading.Thread(target=self._read, args=(self.popen,), daemon=True)
        self._pump.start()

    def look(self) -> bool:
        """Whether it has become ready; asked until it has."""
        if self.service.once:
            self.ready = self.popen is not None and self.popen.poll() == 0
        elif not self.ready:
            printed = self.service.ready_line is None or self._line_seen
            self.ready = self.alive and printed and (self.service.ready is None or self.service.ready())
        return self.ready

    def late(self) -> bool:
        return time.monotonic() - self._started_at > self.service.start_seconds

    def plan_restart(self) -> float:
        """Bury what is left of the group and say when to start again; the answer is the seconds until then."""
        self.kill()
        if time.monotonic() - self._started_at > _STEADY_SECONDS:
            self._backoff = _BACKOFF_FIRST
        seconds, self._backoff = self._backoff, min(self._backoff * 2, _BACKOFF_LAST)
        self.restart_at = time.monotonic() + seconds
        return seconds

    def kill(self) -> None:
        """End the whole group, as after a crash of the leader its children may be at work still.

        Once per life: later, the group's number may be somebody else's.
        """
        if self.popen is None or self._buried:
            return
        self._buried = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        if self._pump is not None:
            self._pump.join(1.0)

    def _read(self, popen: subprocess.Popen[str]) -> None:
        assert popen.stdout is not None
        with popen.stdout:
            for line in popen.stdout:
                text = line.rstrip()
                self.tail.append(text)
                if self.service.ready_line is not None and self.service.ready_line in text:
                    self._line_seen = True
                self._say(self.service.name, text)


class Runner:
    """Runs services; a context manager whose end stops them all.

    ``say(name, line)`` gets every line that a service prints, and the runner's own under the name ``up``. It is
    called from several threads.

    :param on_start: called with each service before it is started for the first time.
    """

    name = "up"

    def __init__(
        self,
        services: Sequence[Service],
        say: Callable[[str, str], None],
        on_start: Callable[[Service], None] = lambda _service: None,
    ) -> None:
        self._say = say
        self._on_start = on_start
        self._all = [_Running(service, say) for service in services]
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        # Held while a service is tended: who stops waits for a restart that is under way.
        self._tending = threading.Lock()

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        return self._stopping.is_set()

    def ask_to_stop(self) -> None:
        """Stop soon; asked a second time, kill. Safe in a signal handler."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def hurry(self) -> None:
        """Stop, and kill what does not end at once."""
        self._stopping.set()
        self._hurry.set()

    def start(self) -> None:
        """Start one after the other, each when the one before is ready. A stop that is asked for ends it early.

        :raises StartFailed: when one ends, or is not ready in time.
        """
        for running in self._all:
            if self.stopping:
                return
            self._on_start(running.service)
            running.start()
            while not (running.look() or self.stopping):
                name = running.service.name
                if not running.alive and not running.look():
                    running.kill()
                    raise StartFailed(f"{name} ended with {_code(running)} while it was started{_last_lines(running)}")
                if running.late():
                    raise StartFailed(
                        f"{name} was not ready within {running.service.start_seconds:.0f} s{_last_lines(running)}"
                    )
                time.sleep(_POLL_SECONDS)

    def add(self, service: Service) -> None:
        """Start one more, without waiting for it."""
        running = _Running(service, self._say)
        self._all.append(running)
        running.start()

    def code(self, name: str) -> int | None:
        """The exit code of a service; None while it runs."""
        running = next(each for each in self._all if each.service.name == name)
        return None if running.popen is None else running.popen.poll()

    def finished(self, name: str) -> bool:
        """Whether a job has ended, and all that it printed was passed on."""
        running = next(each for each in self._all if each.service.name == name)
        return not running.alive and running.drained

    def supervise(self, until: Callable[[], bool] = lambda: False) -> None:
        """Restart what dies, until a stop is asked for or ``until`` says so."""
        while not (self.stopping or until()):
            for running in self._all:
                with self._tending:
                    if not self.stopping:
                        self._tend(running)
            self._stopping.wait(_POLL_SECONDS * 2)

    def stop(self) -> None:
        """Stop everything in the reverse order, each when the one after it has ended."""
        self._stopping.set()
        with self._tending:
            for running in reversed(self._all):
                if running.alive:
                    self._stop(running)
                running.kill()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.hurry()
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._hurry.set()
        self.stop()

    def _tend(self, running: _Running) -> None:
        if running.alive:
            if not running.ready and running.look():
                self._say(self.name, f"{running.service.name} is back")
        elif running.restart_at is None:
            if running.service.once:
                running.kill()
                return
            code = _code(running)
            seconds = running.plan_restart()
            self._say(self.name, f"{running.service.name} ended with {code}; it starts again in {seconds:g} s")
        elif time.monotonic() >= running.restart_at:
            running.start()

    def _stop(self, running: _Running) -> None:
        popen = running.popen
        assert popen is not None
        self._say(self.name, f"stopping {running.service.name}")
        for number, seconds in running.service.stop:
            if self._hurry.is_set():
                break
            popen.send_signal(number)
            deadline = time.monotonic() + seconds
            while popen.poll() is None and time.monotonic() < deadline and not self._hurry.is_set():
                time.sleep(_POLL_SECONDS)
            if popen.poll() is not None:
                return
        self._say(self.name, f"killing {running.service.name}")


def _code(running: _Running) -> str:
    code = None if running.popen is None else running.popen.poll()
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _last_lines(running: _Running) -> str:
    return "".join(f"\n  {line}" for line in running.tail)
