"""Task ids that say what they belong to."""

from __future__ import annotations

import pytest

from celery_progress_ext import ids
from celery_progress_ext.ids import TaskId


def test_a_chunks_task_id_leads_back_to_its_row() -> None:
    """A receiver in MainProcess has nothing but the id."""
    job_id = ids.new_job_id()
    task = ids.parse(ids.chunk_task_id(job_id, 4, 2))
    assert task == TaskId(job_id, 4, 2)
    assert task.chunk_id == ids.chunk_id(job_id, 4)


def test_no_bodys_task_id_is_the_job_id() -> None:
    """Celery would store its ChordError there. One of before, which was, is understood all the same."""
    job_id = ids.new_job_id()
    assert ids.body_task_id(job_id, 1) == f"{job_id}.b1"
    assert ids.parse(job_id) == TaskId(job_id, None, 1)
    assert ids.parse(ids.body_task_id(job_id, 3)) == TaskId(job_id, None, 3)


@pytest.mark.parametrize(
    "task_id", [None, "", "0b8a6f0e-8f0d-4f3e-9b0a-2f4f7d0f9c11", "job_x.c", "job_x.q1", "job_x.cA.1"]
)
def test_other_task_ids_are_not_tracked(task_id: str | None) -> None:
    """Tasks of the app that are not tracked cost a prefix test."""
    assert ids.parse(task_id) is None


def test_job_ids_differ() -> None:
    """They are part of URLs; nobody may guess one."""
    assert len({ids.new_job_id() for _ in range(1000)}) == 1000
