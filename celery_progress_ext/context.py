"""What a process needs to track jobs: settings, database, broadcaster and snapshots, each made on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from celery_progress_ext.broadcast import Broadcaster, shown_in
from celery_progress_ext.broadcast.memory import MemoryBroadcaster
from celery_progress_ext.broadcast.tick_trace import TickTrace
from celery_progress_ext.config import Settings
from celery_progress_ext.event_loops import LoopReaders, PerLoop
from celery_progress_ext.private_files import PrivateFiles
from celery_progress_ext.steady import Shown
from celery_progress_ext.storage import Database, Snapshots


class ProcessContext:
    """One per Celery app and process. ``conf`` is read when a setting is first needed, not before: an app may still
    be configured after ``CeleryProgress(app)``.
    """

    def __init__(self, conf: Callable[[], Mapping[str, Any]]) -> None:
        self._conf = conf

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once."""
        return Settings.read(self._conf())

    @cached_property
    def database(self) -> Database:
        """Where the rows are."""
        return Database(
            self.settings.database_url,
            hold_seconds=self.settings.lease_seconds / 2,
            files=PrivateFiles.shared_with(self.settings.files_group),
        )

    @cached_property
    def broadcaster(self) -> Broadcaster:
        """Where snapshots go. Without Redis they stay in this process, and readers elsewhere poll the database."""
        if self.settings.redis_url is None:
            return MemoryBroadcaster(keep_unread=False)
        from celery_progress_ext.broadcast.redis import RedisBroadcaster

        return RedisBroadcaster(self.settings.redis_url)

    @cached_property
    def per_loop(self) -> PerLoop[LoopReaders]:
        """What the async readers of each event loop share."""
        return PerLoop(self._make_loop_readers)

    @property
    def loop_readers(self) -> LoopReaders:
        """What the async readers of the running event loop share.

        :raises RuntimeError: outside an event loop.
        """
        return self.per_loop.get()

    def _make_loop_readers(self) -> LoopReaders:
        url = self.settings.redis_url
        if url is None:
            return LoopReaders(None)
        from celery_progress_ext.broadcast.redis_async import AsyncRedisSubscription

        return LoopReaders(lambda: AsyncRedisSubscription.open(url))

    @cached_property
    def snapshots(self) -> Snapshots:
        """Rows to snapshots."""
        return Snapshots(self.database, self.settings, self._last_shown, self._beat_missing)

    @cached_property
    def tick_trace(self) -> TickTrace:
        """What each tick leaves."""
        return TickTrace(self.broadcaster, self.settings.tick_seconds)

    def _beat_missing(self) -> bool:
        try:
            return self.tick_trace.missing()
        except Exception:  # of Redis, which is away: nobody knows
            return False

    def _last_shown(self, job_id: str) -> Shown | None:
        """One finish time for every process and reader: the next goes on from the one that was broadcast last."""
        kept = self.broadcaster.kept(job_id)
        return None if kept is None else shown_in(kept.payload)


_current: ProcessContext | None = None


def use(context: ProcessContext) -> None:
    """Make ``context`` the one for code that has no app at hand, as the story's facade."""
    global _current
    _current = context


def current() -> ProcessContext:
    """The context of the newest ``CeleryProgress`` in this process, or one from the environment alone."""
    if _current is None:
        use(ProcessContext(dict))
    assert _current is not None
    return _current
