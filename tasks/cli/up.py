"""``python -m tasks up``: the whole service on one machine, until Ctrl-C.

On the terminal is what a person needs: a line for each part that is ready, what goes wrong, and the URL, last and
alone. What the processes log is in files (`-v` prints it too).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from celery_progress_ext.jobs import JobSnapshot
from celery_progress_ext.terminal import Display, display_for
from tasks import exit_codes
from tasks.cli.log_files import LogFiles
from tasks.cli.running import Running, announced
from tasks.cli.submit import SAMPLE_NAME, summary
from tasks.embedded.runner import Runner, Service, StartFailed
from tasks.embedded.servers import ServerFailed, ServerNotFound
from tasks.embedded.stack import ROOT, AlreadyRunning, PortTaken, Stack, held, plan_up, run

_SAMPLE = "sample"
#: Behind the ^C of the terminal.
_STOPPING = "\nStopping when the chunks at work are done; Ctrl-C again\ndoes not wait for them."
_WIDTH = max(map(len, ("redis", "tables", "worker", "beat", "web", "flower", _SAMPLE)))


def up(
    *, port: int | None, data_dir: Path, workers: int, sample: bool, exit_when_done: bool, verbose: bool = False
) -> int:
    """Start everything, say where it is, keep it alive until SIGINT or SIGTERM. Returns an exit code.

    :param port: the web's; 0 for any that is free, None for the environment's.
    """
    # Log files that are rotated are made anew.
    os.umask(0o077)
    try:
        with held(data_dir):
            stack = plan_up(data_dir, port=port, workers=workers)
            with contextlib.closing(LogFiles(data_dir / "logs")) as logs:
                return _Up(stack, data_dir, logs, verbose=verbose).serve(sample=sample, exit_when_done=exit_when_done)
    except (AlreadyRunning, PortTaken, ServerNotFound, ServerFailed, StartFailed) as error:
        print(error, file=sys.stderr)
        return exit_codes.FAILED
    except OSError as error:
        print(f"{error.filename or data_dir} cannot be used: {error.strerror}.", file=sys.stderr)
        return exit_codes.FAILED


class _Up:
    """One run of the service, and what is said about it."""

    def __init__(self, stack: Stack, data_dir: Path, logs: LogFiles, *, verbose: bool) -> None:
        self._stack = stack
        self._data_dir = data_dir
        self._logs = logs
        self._verbose = verbose
        self._lock = threading.Lock()
        self._starting: float | None = None
        #: Whether a line waits for its end.
        self._line_open = False
        self._display: Display | None = None
        self._last: JobSnapshot | None = None
        self._runner = run(stack, self._say, self._on_start)

    def serve(self, *, sample: bool, exit_when_done: bool) -> int:
        """Run until a signal comes, or until the sample is done. Returns an exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self._runner.ask_to_stop())
        runner, code = self._runner, None
        self._print(f"Starting the service; it keeps its data in {self._data_dir}.")
        try:
            with runner:
                if not runner.stopping:
                    self._on_ready()
                    # The sample's bar keeps the URL in sight.
                    with self._announced(print_url=not (sample and sys.stdout.isatty())):
                        if sample:
                            self._show_sample()
                        runner.supervise(until=lambda: exit_when_done and runner.code(_SAMPLE) is not None)
                if not runner.stopping:
                    code = runner.code(_SAMPLE)
                self._print(_STOPPING)
        finally:
            self._end_line()
        self._print("Stopped.")
        return code or 0

    @contextlib.contextmanager
    def _announced(self, *, print_url: bool) -> Iterator[None]:
        """Say where it is, to the person and to the commands of this user."""
        stack = self._stack
        running = Running(url=stack.address, key=stack.key, pid=os.getpid())
        with announced(self._data_dir, running):
            if stack.flower_url:
                self._print(f"flower: {stack.flower_url}")
            self._print(f"logs: {self._logs.folder}")
            self._print("Ctrl-C stops everything. This link signs one browser in:\n")
            if print_url:
                self._print(f"web: {stack.web_url}")
            yield

    def _show_sample(self) -> None:
        """Submit the sample scan and show its progress, with the URL in sight."""
        url = f"web: {self._stack.web_url}"
        with display_for(sys.stdout, title=SAMPLE_NAME, footer=url) as self._display:
            self._display.step("Making a sample scan")
            self._runner.add(_sample(self._stack))
            self._runner.supervise(until=lambda: self._runner.finished(_SAMPLE))
        self._display = None
        if self._runner.stopping:
            return
        last = self._last
        ended = last is not None and last.status.terminal
        said = summary(last, ()) if last and ended else f"The sample failed: {self._logs.path(_SAMPLE)}"
        self._print(f"{said}\n\n{url}")

    def _on_start(self, service: Service) -> None:
        self._on_ready()
        self._print(f"  {service.name:<{_WIDTH}}  {service.purpose:<32}", end="")
        self._starting = time.monotonic()

    def _on_ready(self) -> None:
        """Say that the service that was started last is ready."""
        if self._starting is not None:
            with self._lock:
                if self._line_open:
                    print(f"  ready in {time.monotonic() - self._starting:.1f} s", flush=True)
                self._line_open = False
        self._starting = None

    def _say(self, name: str, line: str) -> None:
        """A line that a process printed, or the runner's own."""
        if name == _SAMPLE and self._shown(line):
            return
        self._logs.write(name, line if name != Runner.name else f"{time.strftime('%F %T')} {line}")
        if self._verbose:
            self._print(f"{name:<{_WIDTH}} | {line}")
        elif name == Runner.name and not self._runner.stopping:
            self._print(f"{line} (see {self._logs.folder})")

    def _shown(self, line: str) -> bool:
        """Whether a line of the sample's was a snapshot."""
        try:
            snapshot = JobSnapshot.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError):
            return False
        self._last = snapshot
        if self._display is not None:
            self._display.show(snapshot)
        return True

    def _print(self, line: str, end: str = "\n") -> None:
        self._end_line()
        with self._lock:
            if self._display is not None:
                self._display.log(line)
            else:
                print(line, end=end, flush=True)
                self._line_open = not end

    def _end_line(self) -> None:
        with self._lock:
            if self._line_open:
                print(flush=True)
            self._line_open = False


def _sample(stack: Stack) -> Service:
    return Service(
        name=_SAMPLE,
        argv=[sys.executable, "-m", "tasks", "submit", "--sample", "--json"],
        env=stack.environment,
        cwd=ROOT,
        once=True,
    )
