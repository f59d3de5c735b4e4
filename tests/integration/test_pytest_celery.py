"""pytest-celery's own set-up works without Docker."""

from __future__ import annotations

import os
from typing import Any

import pytest
from pytest_celery import RESULT_TIMEOUT, CeleryTestSetup

from tests.support import sample_tasks


@pytest.fixture
def default_worker_tasks(default_worker_tasks: set[Any]) -> set[Any]:
    """The worker knows this module's tasks too."""
    return {*default_worker_tasks, sample_tasks}


def test_a_task_runs_in_a_worker_process(celery_setup: CeleryTestSetup) -> None:
    """The stock set-up is ready, and its worker is a process of its own."""
    assert celery_setup.ready(ping=True, control=True, docker=True)
    pid = sample_tasks.process_id.delay().get(timeout=RESULT_TIMEOUT)
    assert pid != os.getpid()
    assert pid in {process["pid"] for process in celery_setup.worker.get_running_processes_info(["pid"])}
