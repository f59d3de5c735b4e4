"""What `tracked_chord` refuses, before anything is inserted or published."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery, chord, group

from celery_progress_ext import CeleryProgress, JobStatus, tracked_chord
from celery_progress_ext.exceptions import DatabaseNotMigrated, InvalidCanvas, NotConfigured


def _register(app: Celery) -> None:
    """Not shared: a shared task is registered with every app of the process, in other tests too."""

    @app.task(name="work", shared=False)  # type: ignore[untyped-decorator]
    def work(number: int) -> int:
        return number

    @app.task(name="merge", shared=False)  # type: ignore[untyped-decorator]
    def merge(results: list[int]) -> list[int]:
        return results


@pytest.fixture
def app(tmp_path: object) -> Iterator[Celery]:
    made = Celery("refusals", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.update(progress_database_url=f"sqlite:///{tmp_path}/progress.db")
    progress = CeleryProgress(made)
    progress.migrate()
    _register(made)
    yield made
    progress.database.dispose()


def _chord(app: Celery, header: object, body: object = "merge", **options: object) -> tracked_chord:
    signature = app.signature(body) if isinstance(body, str) else body
    return tracked_chord(header, signature, **{"matter_id": "m", "document_id": "d", "app": app, **options})  # type: ignore[arg-type]


def _work(app: Celery, count: int = 2) -> list[object]:
    return [app.signature("work", args=(number,)) for number in range(count)]


def test_an_empty_header_is_refused(app: Celery) -> None:
    """There would be nothing to count."""
    with pytest.raises(InvalidCanvas, match="empty"):
        _chord(app, []).apply_async()


def test_a_chunk_is_one_task(app: Celery) -> None:
    """A group or a chain in the header has no row that its parts could be counted in."""
    with pytest.raises(InvalidCanvas, match="member 1"):
        _chord(app, [_work(app)[0], group(_work(app), app=app)]).apply_async()


def test_a_body_that_is_a_chord_is_refused_and_told_how_to_chain(app: Celery) -> None:
    """The merge is claimed as one task; a chord can follow it."""
    with pytest.raises(InvalidCanvas, match=r"\| rest"):
        _chord(app, _work(app), chord(_work(app), app.signature("merge"), app=app)).apply_async()


def test_a_body_is_needed(app: Celery) -> None:
    """Without one nothing would end the job."""
    with pytest.raises(InvalidCanvas, match="needs a body"):
        _chord(app, _work(app), None).apply_async()


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([(1, 25)], "2 header tasks but 1 ranges"),
        ([(1, 25), (25, 50)], "overlaps"),
        ([(1, 25), (27, 50)], "gap"),
        ([(1, 25), (50, 26)], "ends before it begins"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(app: Celery, ranges: list[tuple[int, int]], words: str) -> None:
    """A page counted twice, or never, would make the bar lie."""
    with pytest.raises(InvalidCanvas, match=words):
        _chord(app, _work(app), ranges=ranges).apply_async()


def test_arguments_that_are_not_json_are_refused(app: Celery) -> None:
    """They are kept in the chunk's row, to send it again."""
    with pytest.raises(InvalidCanvas, match="chunk 0 must be JSON"):
        _chord(app, [app.signature("work", args=({1, 2},))]).apply_async()


def test_an_unknown_policy_is_refused(app: Celery) -> None:
    """Only `partial` and `fail`."""
    with pytest.raises(InvalidCanvas, match="on_chunk_failure"):
        _chord(app, _work(app), on_chunk_failure="ignore").apply_async()


def test_a_matter_is_needed(app: Celery) -> None:
    """A job without one could be read by nobody, or by everybody."""
    with pytest.raises(InvalidCanvas, match="matter_id"):
        _chord(app, _work(app), matter_id="")


def test_a_refused_chord_leaves_nothing_behind(app: Celery) -> None:
    """No row, no message."""
    with pytest.raises(InvalidCanvas):
        _chord(app, _work(app), ranges=[(1, 2)]).apply_async()
    assert CeleryProgress.of(app).jobs.list() == []


def test_an_app_without_the_extension_says_what_is_missing() -> None:
    """Not an AttributeError."""
    bare = Celery("bare", broker="memory://", set_as_current=False)
    with pytest.raises(NotConfigured, match="CeleryProgress"):
        _chord(bare, [bare.signature("work")]).apply_async()


def test_a_database_that_is_not_migrated_refuses_before_it_publishes(tmp_path: object) -> None:
    """With the command that makes the tables."""
    fresh = Celery("fresh", broker="memory://", backend="cache+memory://", set_as_current=False)
    fresh.conf.update(progress_database_url=f"sqlite:///{tmp_path}/fresh.db")
    progress = CeleryProgress(fresh)
    _register(fresh)
    with pytest.raises(DatabaseNotMigrated, match="progress migrate"):
        _chord(fresh, _work(fresh)).apply_async()
    progress.database.dispose()


def test_eager_tasks_are_tracked_too(app: Celery) -> None:
    """`task_always_eager`, as projects set it in their own tests: over when `apply_async` returns."""
    app.conf.task_always_eager = True
    job = _chord(app, _work(app)).apply_async()
    snapshot = job.snapshot()
    assert (snapshot.status, snapshot.chunks.completed) == (JobStatus.COMPLETED, 2)


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        ([1.0], "one cost per task"),
        ([1.0, 0.0], "chunk 1 must be a positive"),
        ([1.0, float("nan")], "chunk 1 must be"),
    ],
)
def test_costs_are_one_positive_number_a_chunk(app: Celery, costs: list[float], words: str) -> None:
    """Nothing is done in no time."""
    with pytest.raises(InvalidCanvas, match=words):
        _chord(app, _work(app), costs=costs).apply_async()
