"""What a worker's MainProcess does before it forks its pool."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable

from tests.support.chords import Bench
from tests.support.processes import WorkerProcess

Workers = Callable[..., WorkerProcess]

#: What the interpreter itself freezes when it starts; some versions do.
_AT_START = int(subprocess.check_output([sys.executable, "-c", "import gc; print(gc.get_freeze_count())"]))


def test_children_share_what_was_frozen_once(sqlite_chords: Bench, worker: Workers) -> None:
    """A child that replaces another gets no more of it: requests at work by then are left to the collector."""
    sqlite_chords.start_worker(worker, args=["--max-tasks-per-child", "1"])
    sent = [sqlite_chords.app.signature("frozen").apply_async() for _ in range(6)]
    answers = [tuple(result.get(timeout=20)) for result in sent]
    assert len({pid for pid, _ in answers}) == 6
    counts = [count for _, count in answers]
    assert min(counts) > 10_000
    # Some of them are freed meanwhile; what the worker made since would be thousands more.
    assert max(counts) - min(counts) < 500


def test_freezing_can_be_switched_off(sqlite_chords: Bench, worker: Workers) -> None:
    """`progress_gc_freeze`."""
    sqlite_chords.start_worker(worker, progress_gc_freeze=False)
    assert sqlite_chords.app.signature("frozen").apply_async().get(timeout=20)[1] == _AT_START


def test_a_pool_that_does_not_fork_freezes_nothing(sqlite_chords: Bench, worker: Workers) -> None:
    """Nor does a publisher."""
    sqlite_chords.start_worker(worker, args=["--pool", "solo"])
    assert sqlite_chords.app.signature("frozen").apply_async().get(timeout=20)[1] == _AT_START
    assert gc.get_freeze_count() == _AT_START
