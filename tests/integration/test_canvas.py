"""What `tracked_chord` refuses, before anything is inserted or published."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chord, group

from celery_progress_ext import CeleryProgress, JobStatus, tracked_chord, tracked_group
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
        ([(1, 25), (25, 50)], r"Ranges 0 and 1 overlap: \(1, 25\) and \(25, 50\).*counted twice"),
        ([(26, 50), (0, 26)], "Ranges 0 and 1 overlap"),
        ([(1, 25), (50, 26)], r"Range 1 ends before it begins: \(50, 26\)"),
        ([(1, 25), ("a", "f")], r"Range 1 must be two whole numbers.*give sizes alone"),
        ([(1, 25), (26, 50, 1)], "Range 1 must be two whole numbers"),
        ([(1, 25), range(26, 26)], "Range 1 must be a range of step 1 that is not empty"),
        ([(1, 25), (26, 10**30)], "no database's integer holds"),
    ],
)
def test_ranges_that_cannot_be_are_refused(app: Celery, ranges: list[Any], words: str) -> None:
    """A unit that is counted twice would make the bar lie."""
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"matter_id": ""}, "The matter_id of a tracked_chord must be a string that is not empty"),
        ({"subject": ["d"], "document_id": None}, "The subject .* or leave it out"),
        ({"owner": "n"}, "owner and matter_id are two names of one thing, but are 'n' and 'm'"),
        ({"document_id": "d" * 256}, "at most 255 characters, not 256"),
        ({"unit": ""}, "unit must be 1 to 32 characters"),
        ({"merge_message": 7}, "merge_message must be 1 to 200 characters of text, not 7"),
        ({"sizes": [3, 0]}, "The size of chunk 1 must be a whole number from 1 on, not 0"),
        ({"sizes": [3, 2.5]}, "The size of chunk 1"),
    ],
)
def test_words_and_ids_that_cannot_be_are_refused(app: Celery, options: dict[str, Any], words: str) -> None:
    """With a sentence that says which, and what would do."""
    with pytest.raises(InvalidCanvas, match=words):
        _chord(app, _work(app), **options)


def test_sizes_for_another_number_of_tasks_are_refused(app: Celery) -> None:
    """One for each."""
    with pytest.raises(InvalidCanvas, match="2 header tasks but 1 sizes; give one size per task"):
        _chord(app, _work(app), sizes=[3]).apply_async()


def test_no_id_is_needed(app: Celery) -> None:
    """Nor ranges: `tracked_chord(header, body)` is a job that only an unscoped credential may read."""
    snapshot = tracked_chord(_work(app), app.signature("merge"), app=app).apply_async().snapshot()  # type: ignore[arg-type]
    assert (snapshot.owner, snapshot.subject, snapshot.matter_id, snapshot.document_id) == (None, None, None, None)
    wire = snapshot.to_dict()
    assert (wire["matter_id"], wire["document_id"], wire["owner"]) == (None, None, None)


def test_an_owner_is_a_matter_by_another_name(app: Celery) -> None:
    """And a subject a document; an id that is a number or a UUID becomes text."""
    job = tracked_chord(_work(app), app.signature("merge"), owner=7, subject=UUID(int=1), app=app).apply_async()  # type: ignore[arg-type]
    snapshot = job.snapshot()
    assert (snapshot.matter_id, snapshot.document_id) == ("7", str(UUID(int=1)))
    assert [each.job_id for each in CeleryProgress.of(app).jobs.list(owner="7")] == [job.id]
    assert CeleryProgress.of(app).jobs.list("other") == []


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


def test_eager_groups_are_over_at_once(app: Celery) -> None:
    """One without a body, too, and a single task."""
    app.conf.update(task_always_eager=True, task_store_eager_result=True)
    for canvas, result in (
        (tracked_group(_work(app), app=app), [0, 1]),  # type: ignore[arg-type]
        (CeleryProgress.of(app).track(_work(app)[1]), 1),  # type: ignore[arg-type]
    ):
        job = canvas.apply_async()
        assert job.snapshot().status is JobStatus.COMPLETED
        assert job.get(timeout=5) == result


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
