"""Which of the project's modules run, one after the other: what `bench.rooms` counts.

As a Celery app, the service's own, whose pool children leave a line of each tracked task in ``ROOM_TRACES``:
``celery -A bench.room_trace worker``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tuple(f"{ROOT / name}{os.sep}" for name in ("celery_progress_ext", "tasks", "web"))


class Trace:
    """The modules of the project that functions were called in, in the order of the calls of one thread."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the calls of this thread."""
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # What a module does when it is imported, it does once in a process.
        if event == "call" and code.co_filename.startswith(_PROJECT) and code.co_name != "<module>":
            self.calls.append(str(Path(code.co_filename).relative_to(ROOT)))


def write(kind: str, trace: Trace) -> None:
    """Add a trace to the file that ``ROOM_TRACES`` names."""
    with open(os.environ["ROOM_TRACES"], "a") as file:
        print(json.dumps({"kind": kind, "calls": trace.calls}), file=file)


def _traced(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def traced(*args: Any, **kwargs: Any) -> Any:
        trace = Trace()
        with trace.recording():
            answer = call(*args, **kwargs)
        write(kind, trace)
        return answer

    return traced


def _install(**_: Any) -> None:
    """In a pool's child, whose tasks have their tracers by now."""
    for name in ("tasks.ocr_chunk", "tasks.merge_document"):
        task = app.tasks[name]
        task.__trace__ = _traced(name, task.__trace__)
    tracer = app.tasks["noop.chunk"].__trace__
    app.tasks["noop.chunk"].__trace__ = _traced("noop.chunk", tracer)
    # The library's is the only receiver here.
    [(key, receiver)] = signals.task_success.receivers
    signals.task_success.receivers[:] = [(key, _traced_completion(receiver))]


def _traced_completion(receiver: Callable[..., Any]) -> Callable[..., Any]:
    """A chunk's own trace, beside that of its whole task, which goes on afterwards."""

    def traced(*args: Any, sender: Any, **named: Any) -> Any:
        outer = sys.getprofile()
        try:
            call = _traced("completion", receiver) if sender.name == "noop.chunk" else receiver
            return call(*args, sender=sender, **named)
        finally:
            sys.setprofile(outer)

    return traced


if "ROOM_TRACES" in os.environ:
    from celery import signals

    from tasks import celery_app, ocr_tasks

    app = celery_app.app
    assert ocr_tasks.app is app

    @app.task(name="noop.chunk")  # type: ignore[untyped-decorator]
    def chunk(number: int) -> int:
        """Nothing, as fast as it goes."""
        return number

    @app.task(name="noop.merge")  # type: ignore[untyped-decorator]
    def merge(results: list[int]) -> int:
        """How many there were."""
        return len(results)

    signals.worker_process_init.connect(_install, weak=False)
