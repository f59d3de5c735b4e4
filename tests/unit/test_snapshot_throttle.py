"""Snapshots of many changes: the first at once, then so many a second, the newest always, the end without a wait."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celery_progress_ext import JobStatus
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.recording.snapshot_throttle import BURST, PER_SECOND, SnapshotThrottle
from celery_progress_ext.storage.rows import JobRow
from tests.support.rows import Rows
from tests.support.waiting import wait_for


class _Sent(list[Any]):
    """A broadcaster that notes the versions it is given."""

    def publish(self, snapshot: Any, *, event: str | None = None) -> bool:
        self.append(snapshot.version)
        return True


@pytest.fixture
def sent() -> _Sent:
    return _Sent()


@pytest.fixture
def running(tmp_path: Path, sent: _Sent) -> Iterator[tuple[SnapshotThrottle, JobRow]]:
    """A throttle, and the row of a job that runs."""
    rows = Rows(f"sqlite:///{tmp_path}/progress.db")
    change = rows.start(rows.create(2), 0)
    assert change is not None
    made = ProcessContext(lambda: {"progress_database_url": f"sqlite:///{tmp_path}/progress.db"})
    made.__dict__["broadcaster"] = sent
    yield SnapshotThrottle(made), change.job
    rows.database.dispose()
    made.database.dispose()


def test_few_changes_are_sent_as_they_come(running: tuple[SnapshotThrottle, JobRow], sent: _Sent) -> None:
    """Nobody waits for the chunk of a job of seventeen."""
    throttle, job = running
    for version in range(BURST):
        throttle.submit(replace(job, version=version))
    assert sent == list(range(BURST))


def test_of_many_changes_the_newest_is_sent_in_time(running: tuple[SnapshotThrottle, JobRow], sent: _Sent) -> None:
    """A thousand within a moment are some twenty events, in order, and the last of them is not missing."""
    throttle, job = running
    began = time.monotonic()
    for version in range(1000):
        throttle.submit(replace(job, version=version))
    wait_for(lambda: sent[-1] == 999, 5.0)
    assert sent == sorted(sent)
    assert len(sent) <= BURST + 1 + (time.monotonic() - began) * PER_SECOND


def test_an_older_change_does_not_replace_one_that_waits(running: tuple[SnapshotThrottle, JobRow], sent: _Sent) -> None:
    """Two threads of a process, the later one first."""
    throttle, job = running
    for version in range(BURST + 1):
        throttle.submit(replace(job, version=version))
    throttle.submit(replace(job, version=0))
    wait_for(lambda: len(sent) > BURST, 5.0)
    assert sent[-1] == BURST


def test_the_end_does_not_wait(running: tuple[SnapshotThrottle, JobRow], sent: _Sent) -> None:
    """Nor does anything that waited follow it."""
    throttle, job = running
    for version in range(50):
        throttle.submit(replace(job, version=version))
    throttle.submit(replace(job, version=50, status=JobStatus.COMPLETED))
    assert sent[-1] == 50
    throttle.flush()
    assert sent[-1] == 50


def test_a_process_that_ends_sends_what_waits(running: tuple[SnapshotThrottle, JobRow], sent: _Sent) -> None:
    """With ``worker_process_shutdown``; a killed one's snapshot comes with the next tick."""
    throttle, job = running
    for version in range(50):
        throttle.submit(replace(job, version=version))
    throttle.flush()
    assert sent[-1] == 49


def test_a_child_has_a_throttle_of_its_own(running: tuple[SnapshotThrottle, JobRow], sent: _Sent) -> None:
    """What waited at the fork is the parent's to send, and its lock may be held for ever."""
    throttle, job = running
    for version in range(50):
        throttle.submit(replace(job, version=version))
    throttle._lock.acquire()
    child = os.fork()
    if child == 0:  # pragma: no cover
        throttle.submit(replace(job, version=100))
        os._exit(0 if sent[-1] == 100 else 1)
    throttle._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
