"""A job's progress for a person at a terminal: bars where there is one, plain lines elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from celery_progress_ext import JobSnapshot, JobStatus
from celery_progress_ext.display import stalled_text, time_left
from celery_progress_ext.stages import StageName, stage

#: What has an output has been merged, also where the merge was too quick to be seen.
_MERGED = frozenset({JobStatus.COMPLETED, JobStatus.PARTIAL})


_NUMBER = re.compile(r"\d+")


class Display(Protocol):
    """Shows snapshots as they come; a context manager."""

    def show(self, snapshot: JobSnapshot) -> None:
        """Show this one."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display_for(stream: TextIO) -> Display:
    """Bars on a terminal, lines elsewhere."""
    console = Console(file=stream)
    return Bars(console) if console.is_terminal else Lines(stream)


class Lines:
    """One line per change: each count of chunks once and in order, each failure by name."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._completed = -1
        self._said: set[str] = set()
        self._waits: str | None = None

    def show(self, snapshot: JobSnapshot) -> None:
        """Print what is new. A snapshot may be skipped on the way here; what it would have said is said now."""
        merging = snapshot.stage_name == StageName.MERGE or snapshot.status in _MERGED
        if snapshot.chunks.completed or snapshot.stage_name != StageName.QUEUED:
            chunking = stage(StageName.CHUNK_PROCESSING)
            for completed in range(self._completed + 1, snapshot.chunks.completed + 1):
                self._print(chunking.format(completed=completed, total=snapshot.chunks.total))
            self._completed = max(self._completed, snapshot.chunks.completed)
        self._once(failure.message for failure in snapshot.failures)
        self._once(f"Chunk {chunk.chunk_index + 1} is stalled: {chunk.reason}" for chunk in snapshot.stalled)
        self._wait(snapshot)
        if merging:
            self._once([stage(StageName.MERGE).message])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held."""

    def _wait(self, snapshot: JobSnapshot) -> None:
        """Each wait once, and again where it is for something else."""
        reason = None if snapshot.waiting is None else snapshot.waiting.reason
        # How long it has lasted changes with every snapshot.
        said = None if reason is None else _NUMBER.sub("", reason)
        if reason is not None and said != self._waits:
            self._print(reason)
        self._waits = said

    def _once(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line not in self._said:
                self._said.add(line)
                self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Bars:
    """The stage, a bar for chunks and one for pages, when it will be done, and what failed."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<7}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._live = Live(console=console, refresh_per_second=8, transient=False)
        self._chunks = self._progress.add_task("chunks", total=None, note="")
        self._pages = self._progress.add_task("pages", total=None, note="")

    def show(self, snapshot: JobSnapshot) -> None:
        """Draw this one."""
        self._progress.update(self._chunks, total=snapshot.chunks.total, completed=snapshot.chunks.completed)
        self._progress.update(
            self._pages,
            description=snapshot.unit,
            total=snapshot.pages_total,
            completed=snapshot.pages_done,
            note=time_left(snapshot),
        )
        lines: list[RenderableType] = [Text(snapshot.stage, style="bold"), self._progress]
        lines += [Text(failure.message, style="red") for failure in snapshot.failures]
        lines += [Text(stalled_text(chunk), style="yellow") for chunk in snapshot.stalled]
        self._live.update(Group(*lines))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
