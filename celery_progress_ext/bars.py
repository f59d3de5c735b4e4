"""A job as a bar in a notebook, a terminal or a script's log: by tqdm, or by rich."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from celery_progress_ext.display import time_left
from celery_progress_ext.exceptions import MissingExtra
from celery_progress_ext.jobs import JobSnapshot

#: Takes a snapshot, and draws it.
Draw = Callable[[JobSnapshot], None]


def follow(snapshots: Iterable[JobSnapshot], using: str | None) -> JobSnapshot:
    """Draw snapshots as they come; the last one.

    :param using: a key of ``BARS``; None for tqdm where it is installed, else rich.
    :raises ValueError: for another.
    :raises MissingExtra: where it is not installed.
    """
    chosen = using or ("tqdm" if importlib.util.find_spec("tqdm") else "rich")
    if chosen not in BARS:
        raise ValueError(f"using is one of {', '.join(BARS)}, not {using!r}")
    last: JobSnapshot | None = None
    with BARS[chosen]() as draw:
        for last in snapshots:
            draw(last)
    assert last is not None, "a watch ends with a snapshot, or raises"
    return last


@contextmanager
def _tqdm() -> Iterator[Draw]:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingExtra("tqdm is not installed: pip install tqdm, or use rich") from None

    # Its own estimate goes by the bar's past pace; the job's knows more.
    with tqdm(total=100, bar_format="{desc}: {percentage:3.0f}%|{bar}|{postfix} [{elapsed}]") as bar:

        def draw(snapshot: JobSnapshot) -> None:
            bar.set_description_str(snapshot.stage, refresh=False)
            bar.set_postfix_str(_facts(snapshot), refresh=False)
            # A retried run begins again.
            bar.n = snapshot.work_pct
            bar.refresh()

        yield draw


@contextmanager
def _rich() -> Iterator[Draw]:
    from rich.live import Live

    with Live(refresh_per_second=8) as live:
        yield live.update


BARS: dict[str, Callable[[], Any]] = {"tqdm": _tqdm, "rich": _rich}


def _facts(snapshot: JobSnapshot) -> str:
    facts = [f"{snapshot.pages_done}/{snapshot.pages_total} {snapshot.unit}", time_left(snapshot)]
    if snapshot.failures_total:
        facts.append(f"{snapshot.failures_total} failed")
    if snapshot.status.terminal:
        facts.append(snapshot.status.value)
    return " · ".join(fact for fact in facts if fact)
