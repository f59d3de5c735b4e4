"""What lies on the disk from before, made for everybody to read, is tightened when a process of the service starts."""

from __future__ import annotations

from typing import Any

from celery import Celery, signals

from celery_progress_ext import CeleryProgress
from celery_progress_ext.private_files import PrivateFiles
from tasks.documents import DocumentStore
from tasks.settings import ServiceSettings

#: SQLite's own files beside a database.
_BESIDE = ("", "-wal", "-shm")


def connect(app: Celery, progress: CeleryProgress, settings: ServiceSettings) -> None:
    """Tighten when a worker or a beat of this app starts."""

    def on_start(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "app", None) is app:
            tighten(DocumentStore(settings.documents_url, files_group=settings.files_group), progress)

    for signal in (signals.worker_init, signals.beat_init):
        signal.connect(on_start, weak=False)


def tighten(store: DocumentStore, progress: CeleryProgress) -> None:
    """Documents, results and an SQLite database: for their owner alone, or for the group that shares them.

    :raises InvalidSetting: where this machine has no such group.
    """
    store.tighten()
    path = progress.database.path
    if path is not None:
        files = PrivateFiles.shared_with(progress.settings.files_group)
        for suffix in _BESIDE:
            files.tighten(path.with_name(path.name + suffix))
