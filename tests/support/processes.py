"""Real processes for tests, each in a process group of its own so that it can be killed whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

from tasks.embedded.servers import die_with_parent
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0


class TestProcess:
    """A command with its log. ``start`` waits for ``ready_line`` in what it prints; no line, no wait."""

    __test__ = False

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        ready_line: str | None = None,
        python_path: Sequence[Path] = (),
    ) -> None:
        self.argv, self.log_path, self.cwd, self.ready_line = list(argv), log, cwd, ready_line
        paths = [*map(str, python_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths), **(env or {})}
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        """The leader of the group."""
        assert self._popen is not None, "not started"
        return self._popen

    @property
    def pid(self) -> int:
        """The leader's process id."""
        return self.popen.pid

    @property
    def alive(self) -> bool:
        """Whether the leader runs."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def log(self) -> str:
        """What it has printed, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def new_log(self) -> str:
        """What it has printed since its last start."""
        return self.log[self._log_start :]

    def start(self, *, wait: bool = True) -> Self:
        """Start it, and wait until it is ready unless told otherwise."""
        assert not self.alive, "running already"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = len(self.log)
        with self.log_path.open("ab") as output:
            self._popen = subprocess.Popen(
                self.argv,
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout: float = START_SECONDS) -> None:
        """Wait for the line that says so."""
        if self.ready_line is not None:
            self.wait_for_log(self.ready_line, timeout)

    def wait_for_log(self, text: str, timeout: float = START_SECONDS) -> None:
        """Wait until it has printed ``text`` since its last start; ends at once when the process does."""

        def printed() -> bool:
            alive = self.alive  # asked first: what it printed last is then in the log
            found = text in self.new_log
            if not (found or alive):
                raise AssertionError(
                    f"{self.argv} ended with {self.popen.returncode} before it said {text!r}:\n{self.new_log[-3000:]}"
                )
            return found

        try:
            wait_for(printed, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{text!r} did not appear within {timeout:g} s in:\n{self.new_log[-3000:]}") from error

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the leader alone, as a supervisor does."""
        self.popen.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        return self.popen.wait(timeout)

    def stop(self, timeout: float = 20.0) -> int:
        """SIGTERM (a warm shutdown), and wait for the end."""
        if self.alive:
            self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def quit(self, timeout: float = 20.0) -> int:
        """SIGQUIT (a cold shutdown), and wait for the end."""
        if self.alive:
            self.signal(signal.SIGQUIT)
        return self.wait(timeout)

    def kill(self) -> None:
        """``kill -9`` of the whole group."""
        if self._popen is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def restart(self) -> None:
        """Kill what is left of it and start it again."""
        self.kill()
        self.start()

    def children(self) -> list[psutil.Process]:
        """Its children, oldest first."""
        try:
            return sorted(psutil.Process(self.pid).children(), key=lambda child: child.create_time())
        except psutil.NoSuchProcess:
            return []


class WorkerProcess(TestProcess):
    """``celery -A MODULE worker`` with the prefork pool."""

    def __init__(
        self,
        module: str,
        *,
        log: Path,
        concurrency: int = 2,
        name: str = "worker",
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        python_path: Sequence[Path] = (),
        cwd: Path = ROOT,
    ) -> None:
        argv = [sys.executable, "-m", "celery", "-A", module, "worker", "-E", "-O", "fair", "--pool", "prefork"]
        argv += ["--concurrency", str(concurrency), "--hostname", f"{name}@%h", "--loglevel", "INFO"]
        argv += ["--without-gossip", "--without-mingle", *args]
        super().__init__(argv, log=log, env=env, ready_line=" ready.", python_path=python_path, cwd=cwd)

    def pool(self) -> list[int]:
        """The process ids of the pool's children."""
        return [child.pid for child in self.children() if child.status() != psutil.STATUS_ZOMBIE]

    def kill_child(self, pid: int | None = None) -> int:
        """``kill -9`` of one child of the pool, the first unless told otherwise; its process id."""
        pool = self.pool()
        victim = pool[0] if pid is None else pid
        assert victim in pool, f"{victim} is not one of the pool: {pool}"
        os.kill(victim, signal.SIGKILL)
        return victim


class BeatProcess(TestProcess):
    """``celery -A MODULE beat``, with a schedule file of its own."""

    def __init__(
        self,
        module: str,
        *,
        log: Path,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        python_path: Sequence[Path] = (),
        cwd: Path = ROOT,
    ) -> None:
        schedule = log.with_suffix(".schedule")
        argv = [sys.executable, "-m", "celery", "-A", module, "beat", "--schedule", str(schedule), "--pidfile="]
        argv += ["--loglevel", "INFO", *args]
        super().__init__(argv, log=log, env=env, ready_line="beat: Starting", python_path=python_path, cwd=cwd)
