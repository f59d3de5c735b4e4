"""A job's progress for a person at a terminal: a bar where there is one, plain lines elsewhere.

Both say what is being done from the first moment on, before there is a job. The bar goes on by itself between two
snapshots: what is left counts down, and what is stuck says for how long.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from celery_progress_ext.display import stalled_text, time_left
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from celery_progress_ext.stages import StageName, stage
from celery_progress_ext.wording import elapsed, printable

#: What has an output has been merged, also where the merge was too quick to be seen.
_MERGED = frozenset({JobStatus.COMPLETED, JobStatus.PARTIAL})
_COLOURS = {JobStatus.COMPLETED: "green", JobStatus.PARTIAL: "yellow", JobStatus.FAILED: "red"}
#: More than this do not fit beside a bar.
_MAX_FAILURES = 8
_FRAMES_PER_SECOND = 5

_NUMBER = re.compile(r"\d+")


class Display(Protocol):
    """Shows what is being done, and snapshots as they come; a context manager."""

    def step(self, text: str) -> None:
        """Say what is being done now, before there is a job."""

    def show(self, snapshot: JobSnapshot) -> None:
        """Show this one."""

    def trouble(self, text: str | None) -> None:
        """Say why nothing is heard of the job; None once it is."""

    def log(self, line: str) -> None:
        """Print a line of a log."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display_for(stream: TextIO, *, title: str = "", footer: str = "") -> Display:
    """A bar on a terminal, lines elsewhere.

    :param title: what is worked on, such as a file's name.
    :param footer: what stays in sight below the bar; lines leave it out.
    """
    console = Console(file=stream, highlight=False)
    bars = stream.isatty() and not console.is_dumb_terminal
    return Bars(console, title=title, footer=footer) if bars else Lines(stream)


class Lines:
    """One line per change: each step, each count of chunks once and in order, each failure by name."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._completed = -1
        self._said: set[str] = set()
        self._waits: str | None = None

    def step(self, text: str) -> None:
        """Print it."""
        self._print(text)

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

    def trouble(self, text: str | None) -> None:
        """Print it."""
        if text is not None:
            self._print(text)

    def log(self, line: str) -> None:
        """Print it beside the lines."""
        print(line, file=sys.stderr, flush=True)

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
        print(printable(line), file=self._stream, flush=True)


class Bars:
    """What is done and for how long; a bar of work with the pages; when it will be done; what failed or is stuck.

    It is drawn anew several times a second, from the last snapshot and the clock.
    """

    def __init__(
        self,
        console: Console,
        *,
        title: str = "",
        footer: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._console = console
        self._title = printable(title)
        self._footer = footer
        self._clock = clock
        self._begun = clock()
        self._step = ""
        self._trouble: str | None = None
        self._snapshot: JobSnapshot | None = None
        self._shown_at = self._begun
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(
            console=console,
            get_renderable=lambda: self,
            refresh_per_second=_FRAMES_PER_SECOND,
            vertical_overflow="visible",
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def step(self, text: str) -> None:
        """Show it until the next step, or the first snapshot."""
        self._step = text

    def show(self, snapshot: JobSnapshot) -> None:
        """Draw this one from now on."""
        self._snapshot, self._shown_at, self._trouble = snapshot, self._clock(), None

    def trouble(self, text: str | None) -> None:
        """Show it in place of the finish time."""
        self._trouble = text

    def log(self, line: str) -> None:
        """Print it above the bar."""
        self._console.print(Text(line), soft_wrap=True)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._footer = ""
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._head()
        if self._snapshot is not None:
            yield _bar(self._snapshot)
        yield from self._notes()
        if self._footer:
            yield Text(f"\n{self._footer}")

    def _head(self) -> RenderableType:
        snapshot, now = self._snapshot, self._clock()
        ended = snapshot is not None and snapshot.status.terminal
        text = Text(overflow="ellipsis", no_wrap=True)
        doing = self._step if snapshot is None else snapshot.stage
        # At the end its stage is that in which it ended.
        said = snapshot.status.capitalize() if ended and snapshot else printable(doing)
        text.append(said, style="bold")
        if self._title:
            text.append(f"  {self._title}")
        grid = Table.grid(expand=True, padding=(0, 1, 0, 0))
        grid.add_column(width=1)
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(justify="right", no_wrap=True)
        mark = Text(_mark(snapshot.status), style=_COLOURS.get(snapshot.status, "")) if ended and snapshot else None
        grid.add_row(mark or self._spinner, text, Text(elapsed(now - self._begun), style="dim"))
        return grid

    def _notes(self) -> Iterator[Text]:
        snapshot, passed = self._snapshot, self._clock() - self._shown_at
        if self._trouble is not None:
            yield Text(self._trouble, style="yellow")
        if snapshot is None:
            return
        if self._trouble is None and (said := time_left(snapshot, self._clock())):
            yield Text(printable(said), style="yellow" if snapshot.waiting is not None else "")
        if not snapshot.status.terminal:
            for chunk in snapshot.stalled:
                yield Text(printable(stalled_text(chunk, passed)), style="yellow")
        for failure in snapshot.failures[:_MAX_FAILURES]:
            yield Text(printable(failure.message), style="red")
        more = max(snapshot.failures_total, len(snapshot.failures)) - _MAX_FAILURES
        if more > 0:
            yield Text(f"and {more} more", style="red")


def _bar(snapshot: JobSnapshot) -> RenderableType:
    """By work, and the pages beside it; the percent is no higher than what is true."""
    grid = Table.grid(expand=True, padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    pages = f"{snapshot.unit} {snapshot.pages_done}/{snapshot.pages_total}"
    colour = _COLOURS.get(snapshot.status, "cyan")
    bar = ProgressBar(total=100, completed=snapshot.work_pct, complete_style=colour, finished_style=colour)
    grid.add_row("", bar, f"{int(snapshot.work_pct)} %", pages)
    return grid


def _mark(status: JobStatus) -> str:
    return {JobStatus.COMPLETED: "✓", JobStatus.PARTIAL: "!"}.get(status, "✗")
