"""`task_always_eager` and `apply()`: a job runs in the calling process, as Celery's chord does there, with its policy.

The broker and the result backend that the app names are not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain
from celery.exceptions import ChordError, Ignore

from celery_progress_ext import CeleryProgress, JobStatus, tracked_chord, tracked_group
from celery_progress_ext.testing import Tracking, tracking

_NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def app() -> Celery:
    """Tasks that fail where the test says so."""
    made = Celery("eager", broker=_NOWHERE, backend=_NOWHERE, set_as_current=False)
    made.conf.update(failing=set())
    progress = CeleryProgress(made)

    @made.task(bind=True, name="work", shared=False)  # type: ignore[untyped-decorator]
    def work(self: Any, number: int) -> int:
        progress.report(self, done=1, total=1)
        if number in made.conf.failing:
            raise ValueError(f"boom {number}")
        return number

    @made.task(bind=True, name="flaky", shared=False)  # type: ignore[untyped-decorator]
    def flaky(self: Any, number: int) -> int:
        if not self.request.retries:
            raise self.retry(exc=OSError("away"), countdown=60)
        return number

    @made.task(name="ignored", shared=False)  # type: ignore[untyped-decorator]
    def ignored() -> int:
        raise Ignore

    @made.task(name="merge", shared=False)  # type: ignore[untyped-decorator]
    def merge(results: list[int]) -> int:
        if "merge" in made.conf.failing:
            raise KeyError("merge")
        return sum(results)

    @made.task(name="add", shared=False)  # type: ignore[untyped-decorator]
    def add(number: int, other: int) -> int:
        if other in made.conf.failing:
            raise ValueError(f"boom {other}")
        return number + other

    return made


@pytest.fixture
def eager(app: Celery, tmp_path: Path) -> Iterator[Tracking]:
    """The app, eager."""
    with tracking(app, tmp_path) as found:
        yield found


def _job(app: Celery, numbers: list[int], *, task: str = "work", **options: Any) -> tracked_chord:
    header = [app.signature(task, args=(number,)) for number in numbers]
    body = app.signature("merge")
    return tracked_chord(header, body, **{"matter_id": "m", "document_id": "d", "app": app, **options})


def _add(app: Celery, number: int) -> Any:
    return app.signature("add", args=(number,))


def test_a_job_is_over_when_apply_async_returns(app: Celery, eager: Tracking) -> None:
    """As with Celery's chord, `get()` returns the body's result; and so does a handle that is asked for later."""
    job = _job(app, [1, 2, 3]).apply_async()
    eager.assert_completed(job, chunks=3)
    for handle in (job, eager.progress.job(job.id)):
        assert (handle.get(timeout=1), handle.state, handle.result, handle.ready()) == (6, "SUCCESS", 6, True)
    assert job.parent.completed_count() == 3
    assert job.parent.get(timeout=1) == [1, 2, 3]


def test_the_others_go_on_when_a_chunk_fails(app: Celery, eager: Tracking) -> None:
    """Nothing raises; the body merges what there is, and a retry runs the rest."""
    app.conf.failing = {2}
    job = _job(app, [1, 2, 3]).apply_async()
    eager.assert_partial(job, failed=[1])
    assert job.get(timeout=1) == 4
    assert [part.state for part in job.parent] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert isinstance(job.parent[1].result, ValueError)
    app.conf.failing = set()
    assert job.retry_failed().status is JobStatus.COMPLETED
    assert job.get(timeout=1) == 6


def test_the_rest_is_not_run_where_the_policy_is_fail(app: Celery, eager: Tracking) -> None:
    """`get()` raises what it raises with workers."""
    app.conf.failing = {2}
    job = _job(app, [1, 2, 3], on_chunk_failure="fail").apply_async()
    eager.assert_failed(job, failed=[1], error="boom 2")
    assert job.parent.completed_count() == 1
    with pytest.raises(ChordError, match="boom 2"):
        job.get(timeout=1)
    app.conf.failing = set()
    assert job.retry_failed().status is JobStatus.COMPLETED


def test_a_body_that_fails_fails_its_job(app: Celery, eager: Tracking) -> None:
    """And a retry runs it alone."""
    app.conf.failing = {"merge"}
    job = _job(app, [1, 2]).apply_async()
    eager.assert_failed(job, failed=[], error="Merging failed")
    app.conf.failing = set()
    job.retry_failed()
    assert job.get(timeout=1) == 3


def test_a_task_retries_itself_at_once(app: Celery, eager: Tracking) -> None:
    """As Celery's eager tasks do, whatever the countdown."""
    job = _job(app, [1, 2], task="flaky").apply_async()
    eager.assert_completed(job)
    assert job.get(timeout=1) == 3


def test_a_task_without_a_result_fails_its_chunk(app: Celery, eager: Tracking) -> None:
    """No broker delivers it again."""
    header = [app.signature("work", args=(1,)), app.signature("ignored")]
    job = tracked_chord(header, app.signature("merge"), matter_id="m", document_id="d", app=app).apply_async()
    snapshot = eager.assert_partial(job, failed=[1])
    assert "without a result" in snapshot.failures[0].message


def test_what_is_chained_to_a_job_runs_too(app: Celery, eager: Tracking) -> None:
    """The handle's result is the last task's; its parents are the body's, and the header's."""
    job = (_job(app, [1, 2]) | _add(app, 10) | _add(app, 5)).apply_async()
    assert (job.get(timeout=1), job.parent.get(timeout=1), job.parent.parent.completed_count()) == (18, 3, 2)


def test_a_job_stands_in_a_chain(app: Celery, eager: Tracking) -> None:
    """Its chunks get what the task before it returned."""
    inner = tracked_chord([_add(app, 5), _add(app, 6)], app.signature("merge"), matter_id="m", document_id="d", app=app)
    whole = chain(app.signature("add", args=(1, 2)), inner, _add(app, 100), app=app)
    assert whole.apply_async().get(timeout=1) == 8 + 9 + 100


def test_what_follows_a_job_may_fail(app: Celery, eager: Tracking) -> None:
    """Then the job is COMPLETED, and the handle raises what the last task raised."""
    app.conf.failing = {99}
    job = (_job(app, [1, 2]) | _add(app, 99)).apply_async()
    eager.assert_completed(job)
    with pytest.raises(ValueError, match="boom 99"):
        job.get(timeout=1)


def test_exceptions_are_raised_where_the_setting_says_so(app: Celery, tmp_path: Path) -> None:
    """`task_eager_propagates`: the first, once the job is over."""
    app.conf.failing = {2}
    with tracking(app, tmp_path, task_eager_propagates=True) as eager:
        with pytest.raises(ValueError, match="boom 2"):
            _job(app, [1, 2, 3]).apply_async()
        eager.assert_partial(failed=[1])


def test_apply_runs_one_job_here(app: Celery, eager: Tracking) -> None:
    """Also where the app is not eager; a retry of it runs here too."""
    app.conf.update(task_always_eager=False, failing={2})
    job = _job(app, [1, 2, 3]).apply()
    eager.assert_partial(job, failed=[1])
    app.conf.failing = set()
    assert job.retry_failed().status is JobStatus.COMPLETED
    assert job.get(timeout=1) == 6


def test_a_group_and_a_single_task_run_here_too(app: Celery, eager: Tracking) -> None:
    """Neither has a body; a single task raises its own error."""
    header = [app.signature("work", args=(number,)) for number in (1, 2)]
    assert tracked_group(header, app=app).apply_async().get(timeout=1) == [1, 2]
    app.conf.failing = {2}
    assert tracked_group(header, app=app).apply_async().get(timeout=1) == [1]
    job = eager.progress.track(header[1]).apply_async()
    with pytest.raises(ValueError, match="boom 2"):
        job.get(timeout=1)
    app.conf.failing = set()
    job.retry_failed()
    assert job.get(timeout=1) == 2


def test_a_test_sees_every_snapshot(app: Celery, eager: Tracking) -> None:
    """As a reader of the live stream: versions grow, and the last is the end."""
    _job(app, [1, 2]).apply_async()
    versions = [snapshot.version for snapshot in eager.snapshots()]
    assert versions == sorted(versions)
    assert eager.snapshots()[-1].status is JobStatus.COMPLETED


def test_the_app_is_as_it_was_afterwards(app: Celery, tmp_path: Path) -> None:
    """Its settings, and the database that it tracks in."""
    app.conf.progress_database_url = f"sqlite:///{tmp_path}/own.db"
    own = CeleryProgress.of(app).context
    with tracking(app, tmp_path):
        assert CeleryProgress.of(app).context is not own
    assert CeleryProgress.of(app).context is own
    assert (app.conf.task_always_eager, own.settings.database_url.rpartition("/")[2]) == (False, "own.db")
