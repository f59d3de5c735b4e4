"""Jobs in a terminal: a row each in columns that fit 60 characters, and one job with what happened to it."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.cells import cell_len, set_cell_size

from celery_progress_ext.display import time_left, troubles
from celery_progress_ext.ids import short_id
from celery_progress_ext.jobs import JobSnapshot
from celery_progress_ext.wording import clock, elapsed, rough_duration

#: What fits into a line that nobody looks at in a terminal.
_NOT_A_TERMINAL = 200
_HEAD = ("job", "state", "%", "age", "took", "title")
#: Columns of numbers.
_RIGHT = frozenset({2, 4})
#: The last column takes what is left, and no less than this.
_LEAST = 12
_INDENT = "  "


def rows(snapshots: Iterable[JobSnapshot], now: float | None = None) -> Iterator[str]:
    """A line a job, and a second one where it is not over: what it does, and when it will be done or what it waits for.

    ``took`` is the time from its start to its end, or until now.

    :param now: seconds since the epoch; this process's clock unless given.
    """
    now = time.time() if now is None else now
    snapshots = list(snapshots)
    table = [_HEAD, *(_cells(snapshot, now) for snapshot in snapshots)]
    widths = [max(cell_len(row[column]) for row in table) for column in range(len(_HEAD) - 1)]
    rest = max(_LEAST, line_width() - sum(widths) - 2 * len(widths))
    for row, snapshot in zip(table, [None, *snapshots], strict=True):
        cells = [
            " " * (width - cell_len(cell)) + cell if column in _RIGHT else set_cell_size(cell, width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        yield "  ".join([*cells, shortened(row[-1], rest)]).rstrip()
        if snapshot is not None and not snapshot.status.terminal:
            yield from _wrapped(" · ".join(filter(None, (snapshot.stage, time_left(snapshot, now)))))


def lines(snapshot: JobSnapshot, history: Iterable[Mapping[str, Any]], now: float | None = None) -> Iterator[str]:
    """One job: how far it is, its times, what failed or is stuck, and its history."""
    now = time.time() if now is None else now
    yield name(snapshot)
    yield snapshot.job_id + (f", of {snapshot.owner}" if snapshot.owner else "")
    yield state(snapshot, now)
    yield _times(snapshot, now)
    for sentence in [*([snapshot.error] if snapshot.error else []), *troubles(snapshot)]:
        yield from _wrapped(sentence)
    yield "History"
    for event in history:
        at = datetime.fromisoformat(event["at"]).timestamp()
        chunk = "" if event["chunk_index"] is None else f" chunk {event['chunk_index'] + 1}"
        note = f": {event['message']}" if event["message"] else ""
        yield from _wrapped(f"{clock(at, now)} {event['type']}{chunk}{note}")


def state(snapshot: JobSnapshot, now: float | None = None) -> str:
    """``8f3a12bc PROCESSING 64 % · Processing chunk 11/17 · pages 287/425 · about 14:32``, on one line."""
    head = f"{short_id(snapshot.job_id)} {snapshot.status.value} {int(snapshot.work_pct)} %"
    pages = f"{snapshot.unit} {snapshot.pages_done}/{snapshot.pages_total}"
    stage = "" if snapshot.status.terminal else snapshot.stage
    return " · ".join(filter(None, (head, stage, pages, time_left(snapshot, now))))


def name(snapshot: JobSnapshot) -> str:
    """What people call the job: its title, such as a file's name, or else what it works on."""
    return snapshot.title or snapshot.subject or ""


def shortened(text: str, width: int) -> str:
    """The text, or as much of it as fits, with an ellipsis in its middle: the end of a file's name tells much."""
    if cell_len(text) <= width:
        return text
    head = (width - 1) // 2
    tail = text[len(text) - (width - 1 - head) :]
    while cell_len(tail) > width - 1 - head:
        tail = tail[1:]
    return f"{set_cell_size(text, head).rstrip()}…{tail}"


def line_width() -> int:
    """Columns of the terminal; wide where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _NOT_A_TERMINAL


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, line_width(), initial_indent=_INDENT, subsequent_indent=_INDENT * 2)


def _cells(snapshot: JobSnapshot, now: float) -> tuple[str, ...]:
    begun = snapshot.started_at
    end = now if snapshot.finished_at is None else snapshot.finished_at.timestamp()
    return (
        short_id(snapshot.job_id),
        snapshot.status.value,
        str(int(snapshot.work_pct)),
        rough_duration(now - snapshot.created_at.timestamp()),
        "" if begun is None else elapsed(end - begun.timestamp()),
        name(snapshot),
    )


def _times(snapshot: JobSnapshot, now: float) -> str:
    times = {
        "created": snapshot.created_at,
        "started": snapshot.started_at,
        "merging": snapshot.merge_started_at,
        "ended": snapshot.finished_at,
    }
    return ", ".join(f"{word} {clock(at.timestamp(), now)}" for word, at in times.items() if at is not None)
