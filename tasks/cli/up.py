"""``python -m tasks up``: the whole service on one machine, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

from tasks import exit_codes
from tasks.embedded.runner import Runner, Service, StartFailed
from tasks.embedded.servers import ServerFailed, ServerNotFound
from tasks.embedded.stack import ROOT, AlreadyRunning, PortTaken, Stack, held, plan_up, run

_SAMPLE = "sample"
_COLOURS = {"redis": 31, "migrate": 37, "worker": 32, "beat": 33, "web": 36, "flower": 35, _SAMPLE: 34, Runner.name: 1}
_WIDTH = max(map(len, _COLOURS))


class Log:
    """Lines from several processes on one terminal, each with its origin before it."""

    def __init__(self) -> None:
        self._coloured = sys.stdout.isatty()
        self._lock = threading.Lock()

    def __call__(self, name: str, line: str) -> None:
        """Print a line of the process ``name``."""
        head = f"{name:<{_WIDTH}} |"
        if self._coloured:
            head = f"\x1b[{_COLOURS.get(name, 0)}m{head}\x1b[0m"
        self.plain(f"{head} {line}")

    def plain(self, line: str) -> None:
        """Print a line as it is."""
        with self._lock:
            print(line, flush=True)


def up(*, port: int, data_dir: Path, workers: int, sample: bool, exit_when_done: bool) -> int:
    """Start everything, say where it is, keep it alive until SIGINT or SIGTERM. Returns an exit code."""
    try:
        with held(data_dir):
            stack = plan_up(data_dir, port=port, workers=workers)
            return _serve(stack, Log(), sample=sample, exit_when_done=exit_when_done)
    except (AlreadyRunning, PortTaken, ServerNotFound, ServerFailed, StartFailed) as error:
        print(error, file=sys.stderr)
        return exit_codes.FAILED


def _serve(stack: Stack, log: Log, *, sample: bool, exit_when_done: bool) -> int:
    runner = run(stack, log)

    def on_signal(_number: int, _frame: Any) -> None:
        runner.ask_to_stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    code: int | None = None
    with runner:
        if not runner.stopping:
            if sample:
                runner.add(_sample(stack))
            if stack.flower_url:
                log.plain(f"flower: {stack.flower_url}")
            log.plain(f"web: {stack.web_url}")
        runner.supervise(until=lambda: exit_when_done and runner.code(_SAMPLE) is not None)
        if not runner.stopping:
            code = runner.code(_SAMPLE)
        log(Runner.name, "stopping; once more Ctrl-C to kill what is still at work")
    return code or 0


def _sample(stack: Stack) -> Service:
    return Service(
        name=_SAMPLE,
        argv=[sys.executable, "-m", "tasks", "submit", "--sample", "--watch"],
        env=stack.environment,
        cwd=ROOT,
        once=True,
    )
