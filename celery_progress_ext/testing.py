"""For tests of code that uses the library: jobs run eagerly, on an SQLite file of the test, without a server.

The pytest fixture ``celery_progress`` (:mod:`celery_progress_ext.pytest_plugin`) is made of :func:`tracking`; with
another test runner use that itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from celery import Celery

from celery_progress_ext import context
from celery_progress_ext.broadcast.memory import MemoryBroadcaster
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.extension import CeleryProgress
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from celery_progress_ext.storage.audit import Drift
from celery_progress_ext.tracked_job import TrackedJob

_EAGER = {"task_always_eager": True, "task_eager_propagates": False}


class _Recorder(MemoryBroadcaster):
    """Keeps every snapshot that readers of the live stream would get."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[JobSnapshot] = []

    def publish(self, snapshot: JobSnapshot, *, event: str | None = None) -> bool:
        """See ``Broadcaster.publish``."""
        self.sent.append(snapshot)
        return super().publish(snapshot, event=event)


class Tracking:
    """What a test sees of the jobs that its code has started."""

    def __init__(self, progress: CeleryProgress, sent: Sequence[JobSnapshot]) -> None:
        #: The extension of the app under test.
        self.progress = progress
        self._sent = sent

    @property
    def jobs(self) -> list[TrackedJob]:
        """The jobs of this test, in the order in which they were started."""
        return [self.progress.job(snapshot.job_id) for snapshot in reversed(self.progress.jobs.list(limit=1_000))]

    @property
    def job(self) -> TrackedJob:
        """The one job of this test.

        :raises AssertionError: where there is none, or another.
        """
        found = self.jobs
        assert len(found) == 1, f"one job was expected, and {len(found)} were started"
        return found[0]

    def snapshots(self, job: TrackedJob | None = None) -> list[JobSnapshot]:
        """What a reader of the live stream would have got of a job, in order; of the one job unless given."""
        job = job or self.job
        self.progress.recording.flush()
        return [snapshot for snapshot in self._sent if snapshot.job_id == job.id]

    def assert_completed(self, job: TrackedJob | None = None, *, chunks: int | None = None) -> JobSnapshot:
        """Every chunk succeeded, and the body took effect once.

        :param chunks: how many there were.
        """
        snapshot = self._ended(job, JobStatus.COMPLETED)
        assert chunks is None or snapshot.chunks.total == chunks, f"{snapshot.chunks.total} chunks, not {chunks}"
        return snapshot

    def assert_partial(self, job: TrackedJob | None = None, *, failed: Sequence[int] | None = None) -> JobSnapshot:
        """The body merged what there was.

        :param failed: the indices of the chunks that failed, counted from 0.
        """
        return self._failures(self._ended(job, JobStatus.PARTIAL), failed)

    def assert_failed(
        self, job: TrackedJob | None = None, *, failed: Sequence[int] | None = None, error: str = ""
    ) -> JobSnapshot:
        """The job failed: a chunk did, and the policy is ``fail``; every chunk did; or the body.

        :param failed: the indices of the chunks that failed, counted from 0.
        :param error: a part of the job's error.
        """
        snapshot = self._failures(self._ended(job, JobStatus.FAILED), failed)
        assert error in (snapshot.error or ""), f"{error!r} is not in {snapshot.error!r}"
        return snapshot

    def _ended(self, job: TrackedJob | None, status: JobStatus) -> JobSnapshot:
        job = job or self.job
        snapshot = job.snapshot()
        assert snapshot.status is status, f"{job.id} is {snapshot.status}, not {status}: {snapshot.error}"
        drift: list[Drift] = self.progress.audit(job.id)
        assert drift == [], f"the rows of {job.id} do not agree: {drift}"
        return snapshot

    @staticmethod
    def _failures(snapshot: JobSnapshot, failed: Sequence[int] | None) -> JobSnapshot:
        found = [failure.chunk_index for failure in snapshot.failures]
        assert failed is None or found == list(failed), f"chunks {found} failed, not {list(failed)}"
        return snapshot


@contextmanager
def tracking(app: Celery, folder: Path, *, template: Path | None = None, **conf: Any) -> Iterator[Tracking]:
    """Meanwhile the app's tasks run eagerly, and are tracked in a database of their own.

    :param folder: where the database file is made.
    :param template: a database that was migrated, to be copied; making one takes longer.
    :param conf: settings of Celery that differ meanwhile, such as ``task_eager_propagates=True``.
    :raises NotConfigured: for an app without ``CeleryProgress``.
    """
    progress = CeleryProgress.of(app)
    recorder = _Recorder()
    path = folder / "celery_progress.db"
    if template is not None:
        shutil.copy(template, path)
    own = ProcessContext(lambda: app.conf)
    with _changed(app, {**_EAGER, **conf}):
        # Neither the app's servers nor those of the environment.
        own.__dict__["settings"] = replace(own.settings, database_url=f"sqlite:///{path}", redis_url=None)
        own.__dict__["broadcaster"] = recorder
        made = _set_aside(progress)
        before = context.current()
        progress.__dict__["context"] = own
        context.use(own)
        try:
            progress.migrate()
            yield Tracking(progress, recorder.sent)
        finally:
            if "recording" in progress.__dict__:
                progress.recording.flush()
            own.database.dispose()
            _set_aside(progress)
            progress.__dict__.update(made)
            context.use(before)


def make_template(folder: Path) -> Path:
    """A migrated database, for :func:`tracking` to copy."""
    from celery_progress_ext.storage import Database
    from celery_progress_ext.storage.migrate import migrate

    path = folder / "celery_progress_template.db"
    database = Database(f"sqlite:///{path}")
    migrate(database)
    database.dispose()
    return path


@contextmanager
def _changed(app: Celery, conf: dict[str, Any]) -> Iterator[None]:
    before = {name: app.conf.get(name) for name in conf}
    app.conf.update(conf)
    try:
        yield
    finally:
        app.conf.update(before)


def _set_aside(progress: CeleryProgress) -> dict[str, Any]:
    """Take what an extension has made of its settings, so that it makes it anew."""
    names = [name for name, value in vars(CeleryProgress).items() if isinstance(value, cached_property)]
    return {name: progress.__dict__.pop(name) for name in names if name in progress.__dict__}
