"""A pytest plugin (`-p bench.celery_canvas_plugin`): the app of Celery's own integration suite gets the extension."""

from __future__ import annotations

import pytest
from celery import Celery, signals

from celery_progress_ext import CeleryProgress


@pytest.fixture(scope="session", autouse=True)
def _with_the_extension(celery_session_app: Celery, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Receivers, guard and tick task, as in a project that tracks some of its chords."""
    url = f"sqlite:///{tmp_path_factory.mktemp('progress')}/progress.db"
    celery_session_app.conf.update(progress_database_url=url)
    CeleryProgress(celery_session_app).migrate()
    connected = [name for name, signal in vars(signals).items() if _is_ours(signal)]
    assert "task_success" in connected, "the extension's receivers are not connected"


def _is_ours(signal: object) -> bool:
    receivers = getattr(signal, "receivers", None) or ()
    return any("celery_progress_ext." in str(key) for key, _ in receivers)
