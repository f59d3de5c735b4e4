"""Snapshots of many changes: the first at once, then so many a second, the newest always, the end without a wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_progress_ext import CeleryProgress
from celery_progress_ext.outbox import Outbox
from celery_progress_ext.storage.engine import Row


class _Sent(list[Any]):
    """A broadcaster that notes the versions it is given."""

    def publish(self, snapshot: Any, *, event: str | None = None) -> bool:
        self.append(snapshot.version)
        return True


@pytest.fixture
def sent() -> _Sent:
    return _Sent()


@pytest.fixture
def row(tmp_path: Path, sent: _Sent) -> Iterator[tuple[Outbox, Row]]:
    """An outbox, and the row of a running job."""
    app = Celery("outbox", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.progress_database_url = f"sqlite:///{tmp_path}/progress.db"
    progress = CeleryProgress(app)
    progress.migrate()
    progress.jobs.create_job(matter_id="m", document_id="d", job_id="job_0", total_chunks=2)
    progress.runtime.__dict__["broadcaster"] = sent
    found = progress.database.row("SELECT *, {now} AS now FROM processing_jobs")
    assert found is not None
    yield Outbox(progress.runtime), found
    progress.database.dispose()
