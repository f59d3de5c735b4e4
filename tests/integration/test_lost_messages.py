"""Which chunks' messages were lost, as the rows tell it, on SQLite and PostgreSQL: those that were overtaken.

The same with real messages and workers is in `tests/faults/test_lost_messages.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from celery import Celery
from kombu import Queue

from celery_progress_ext import CeleryProgress, JobStatus, ids
from celery_progress_ext.config import Settings
from celery_progress_ext.publishing import Publisher
from celery_progress_ext.recovery import queries
from celery_progress_ext.recovery.lost_messages import LostMessageFinder
from tests.support import sql
from tests.support.rows import LEASE, Rows
from tests.support.sql import execute

TICK = Settings().tick_seconds
#: Longer than a lease, and than a tick and a lease.
LONG = LEASE + TICK + 1

Look = Callable[[], list[str]]


def _signature(**options: Any) -> dict[str, Any]:
    return {"task": "work", "args": [1], "kwargs": {}, "options": options}


WORK = (_signature(),)


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("overtaking", broker="memory://", set_as_current=False)
    yield made
    made.close()


@pytest.fixture
def lost(rows: Rows, app: Celery) -> Look:
    """The ids of the chunks that a look finds."""
    finder = LostMessageFinder(rows.database, Publisher(app, rows.database, Settings()), Settings())
    return lambda: [lost.id for lost in finder.look().lost]


def _create(rows: Rows, total: int = 3, **options: Any) -> str:
    return rows.create(total, **{"signatures": WORK, **options})


def _ended(rows: Rows, **options: Any) -> str:
    """A job that a worker took and finished."""
    job_id = _create(rows, 1, **options)
    rows.start(job_id, 0)
    rows.complete(job_id, 0)
    assert rows.finish(job_id, rows.claim(job_id).body_attempt).status == "COMPLETED"
    return job_id


def test_a_chunk_is_lost_a_lease_after_one_behind_it_was_started(rows: Rows, lost: Look) -> None:
    """In the header's order; what comes behind the started one waits."""
    job_id = _create(rows, 5)
    rows.pass_time(10 * LEASE)
    for index in (0, 2):
        rows.start(job_id, index)
    rows.complete(job_id, 2)
    assert lost() == []
    rows.pass_time(LEASE - 1)
    assert lost() == []
    rows.pass_time(2)
    assert lost() == [f"{job_id}.c1"]


def test_a_chunk_is_not_lost_before_it_is_overdue(rows: Rows, lost: Look) -> None:
    """Which says how long its message may take: a countdown, a patience that doubled."""
    job_id = _create(rows, 3, due=20 * LEASE)
    rows.start(job_id, 1)
    rows.pass_time(10 * LEASE)
    assert lost() == []
    rows.pass_time(11 * LEASE)
    assert lost() == [f"{job_id}.c0"]


def test_a_long_queue_is_waited_for(rows: Rows, lost: Look) -> None:
    """Hours behind others of its job and of jobs before it."""
    first, second, third = (_create(rows, 5) for _ in range(3))
    for index in range(5):
        rows.start(first, index)
        rows.complete(first, index)
    rows.start(second, 0)
    rows.pass_time(100 * LEASE)
    assert lost() == []
    assert rows.jobs.snapshot(third).chunks.pending == 5


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "active"])
def test_a_chunk_is_lost_a_lease_after_one_of_a_later_job_was_started(rows: Rows, lost: Look, ended: bool) -> None:
    """Where nothing of its own job comes after it."""
    job_id = _create(rows, 2)
    rows.start(job_id, 0)
    rows.pass_time(LONG)
    if ended:
        _ended(rows)
    else:
        rows.start(_create(rows, 2), 1)
    rows.pass_time(LEASE - 1)
    assert f"{job_id}.c1" not in lost()
    rows.pass_time(2)
    assert f"{job_id}.c1" in lost()


def test_a_publisher_has_time_to_send_what_it_inserted(rows: Rows, lost: Look) -> None:
    """Rows of before revision 0003 do not say when they were sent: a tick and a second for each hundred chunks
    prove nothing.
    """
    job_id = _create(rows, 1200)
    rows.database.write(lambda conn: execute(conn, "UPDATE document_ocr_chunks SET sent_at = NULL"))
    rows.pass_time(TICK + 2)
    _ended(rows)
    rows.pass_time(10 * LEASE)
    found = lost()
    assert found == [f"{job_id}.c{index}" for index in range(len(found))]
    assert 200 <= len(found) < 400


@pytest.mark.parametrize(
    "other",
    [_signature(queue="other"), _signature(priority=3), _signature(routing_key="other")],
    ids=["queue", "priority", "routing_key"],
)
def test_what_goes_elsewhere_overtakes_nothing(rows: Rows, app: Celery, lost: Look, other: Mapping[str, Any]) -> None:
    """A message of another queue, or of a higher priority, is taken while the others wait."""
    app.conf.task_create_missing_queues = True
    job_id = _create(rows, 4, signatures=(*WORK, other))
    rows.pass_time(LONG)
    rows.start(job_id, 3)
    rows.start(_create(rows, 1, signatures=(other,)), 0)
    rows.pass_time(LONG)
    assert lost() == [f"{job_id}.c1"]


def test_a_task_of_another_name_in_the_same_queue_does(rows: Rows, app: Celery, lost: Look) -> None:
    """A queue is one queue, whatever is in it and whichever way it got there."""
    app.conf.update(
        task_queues=[Queue("celery"), Queue("slow")],
        task_routes={"merge_sort": {"queue": "slow"}, "work": {"queue": "slow"}},
    )
    job_id = _create(rows, 1)
    rows.pass_time(LONG)
    rows.start(_create(rows, 1, signatures=({"task": "merge_sort", "options": {"queue": "slow"}},)), 0)
    rows.pass_time(LONG)
    assert lost() == [f"{job_id}.c0"]


def test_a_queue_that_is_not_known_here_is_not_judged(rows: Rows, app: Celery, lost: Look) -> None:
    """Beat may be configured otherwise than those who publish."""
    app.conf.task_create_missing_queues = False
    job_id = _create(rows, 2, signatures=(_signature(queue="theirs"),))
    rows.start(job_id, 1)
    rows.pass_time(10 * LEASE)
    assert lost() == []


def test_celerys_own_retry_is_a_later_message(rows: Rows, lost: Look) -> None:
    """Chunks behind it in the header were sent before that; a job created after it was not."""
    job_id = _create(rows, 2)
    rows.start(job_id, 0)
    rows.start(job_id, 1)
    rows.start(_create(rows, 1), 0)
    assert rows.again(job_id, 0) is not None
    rows.pass_time(LONG)
    assert lost() == []
    _ended(rows)
    rows.pass_time(LONG)
    assert lost() == [f"{job_id}.c0"]


def test_a_chunk_that_was_sent_again_is_measured_from_then(rows: Rows, lost: Look) -> None:
    """It waits at the queue's end, behind the jobs that were created before."""
    job_id = _create(rows, 2)
    rows.pass_time(LONG)
    between = _create(rows, 1)
    rows.start(between, 0)
    rows.pass_time(LONG)
    assert rows.lose(job_id, 1) is not None
    rows.pass_time(LONG)
    assert f"{job_id}.c1" not in lost()
    _ended(rows)
    rows.pass_time(LONG)
    assert f"{job_id}.c1" in lost()


def test_a_run_that_a_person_began_is_measured_from_then(rows: Rows, lost: Look) -> None:
    """What was finished in the run before overtook nothing, nor did jobs that came between."""
    job_id = _create(rows, 3)
    for index in (1, 2):
        rows.start(job_id, index)
        rows.complete(job_id, index)
    rows.end(job_id, JobStatus.CANCELLED)
    _ended(rows)
    rows.pass_time(10 * LEASE)
    rows.reopen(job_id)
    rows.pass_time(10 * LEASE)
    assert lost() == []
    _ended(rows)
    rows.pass_time(LONG)
    assert lost() == [f"{job_id}.c0"]


def test_a_message_with_a_time_of_its_own_is_not_judged(rows: Rows, lost: Look) -> None:
    """Its worker keeps it until then, while the others go past."""
    job_id = _create(rows, 2, signatures=(_signature(countdown=600), *WORK))
    rows.start(job_id, 1)
    rows.pass_time(10 * LEASE)
    assert lost() == []


def test_an_overtaken_chunk_is_looked_at_again_at_the_next_tick(rows: Rows) -> None:
    """The rest of the job a lease later, and what was sent again too."""
    job_id = _create(rows, 4)
    rows.pass_time(10 * LEASE)
    assert rows.lose(job_id, 0) is not None
    rows.pass_time(10 * LEASE)
    queries.extend(rows.database, job_id, seconds=LEASE, soon=TICK, below=2)
    rows.pass_time(TICK + 1)
    assert [overdue.chunk.id for overdue in queries.overdue_chunks(rows.database)] == [f"{job_id}.c1"]
    rows.pass_time(LEASE)
    assert len(queries.overdue_chunks(rows.database)) == 4


def test_a_worker_that_is_busy_since_before_may_hold_a_message(rows: Rows) -> None:
    """It took it, and has not come to it."""
    busy = _create(rows, 1)
    assert not queries.at_work_since(rows.database, _now(rows))
    rows.start(busy, 0)
    assert queries.at_work_since(rows.database, _now(rows) + 1)
    assert not queries.at_work_since(rows.database, _now(rows) - LEASE)


def _now(rows: Rows) -> float:
    row = sql.row(rows.database, "SELECT {now} AS now")
    assert row is not None
    return float(row["now"])


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")  # of the attribute, until version 6
def test_the_depth_is_asked_of_the_queue_that_the_task_names(rows: Rows, app: Celery) -> None:
    """Where it is sent again, too."""

    @app.task(name="slow_work", queue="slow", shared=False)  # type: ignore[untyped-decorator]
    def slow_work() -> None: ...

    publisher = Publisher(app, rows.database, Settings())
    assert publisher.queue_of({"task": "slow_work"}) == "slow"
    assert publisher.queue_of({"task": "slow_work", "options": {"queue": "fast"}}) == "fast"


def test_a_queue_that_can_not_be_used_keeps_no_other_job_waiting(rows: Rows) -> None:
    """A signature may name a queue that the settings here do not allow; the others are sent again all the same."""
    url = rows.database.url
    app = Celery("strict", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(progress_database_url=url, task_create_missing_queues=False)
    app.conf.task_default_queue = ids.new_job_id()  # the broker in memory outlives a test
    progress = CeleryProgress(app)
    jobs = [_create(rows, 1, signatures=(_signature(queue="elsewhere"),)), _create(rows, 1), _create(rows, 1)]
    rows.pass_time(2 * LEASE)
    progress.reconciler.heal_overdue()
    sent = [progress.jobs.chunks(job_id)[0]["dispatches"] for job_id in jobs]
    progress.database.dispose()
    app.close()
    assert sent == [1, 2, 2]
