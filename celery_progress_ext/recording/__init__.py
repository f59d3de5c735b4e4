"""Who counts: what a task reports is committed to the rows and then broadcast."""

from __future__ import annotations

from celery_progress_ext.context import ProcessContext
from celery_progress_ext.publishing import Publisher
from celery_progress_ext.recording.announcer import Announcer
from celery_progress_ext.recording.body_recorder import BodyRecorder
from celery_progress_ext.recording.chunk_recorder import ChunkRecorder
from celery_progress_ext.recording.conclusion import Conclusion


class Recording:
    """The recorders of a process, over one context."""

    def __init__(self, context: ProcessContext, publisher: Publisher) -> None:
        self.announcer = Announcer(context)
        self.conclusion = Conclusion(context, publisher)
        self.bodies = BodyRecorder(context, publisher, self.announcer, self.conclusion)
        self.chunks = ChunkRecorder(context, publisher, self.announcer, self.bodies)

    def flush(self) -> None:
        """Record the completions and send the snapshots that wait: the process ends."""
        self.chunks.flush()
        self.announcer.flush()
