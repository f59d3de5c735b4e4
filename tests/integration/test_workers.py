"""Workers say who they are, whatever the broker and the database."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from celery_progress_ext.storage import Database, workers
from celery_progress_ext.storage.migrate import migrate
from celery_progress_ext.storage.schema import progress_workers
from celery_progress_ext.storage.workers import live_slots, roster
from tests.support.chord_app import LEASE
from tests.support.chords import MODULE, Bench, follow
from tests.support.processes import WorkerProcess
from tests.support.waiting import wait_for

Workers = Callable[..., WorkerProcess]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Both kinds."""
    made = Database(database_url)
    migrate(made)
    yield made
    made.dispose()


def test_a_worker_says_what_it_listens_to_and_when_it_stops(any_broker: Bench, worker: Workers) -> None:
    """From its start to a warm shutdown, on Redis and on RabbitMQ."""
    database = any_broker.progress.database
    assert live_slots(database) is None
    started = worker(MODULE, env=any_broker.env, concurrency=2, args=["-Q", "ocr,merges"])
    wait_for(lambda: live_slots(database, ["ocr"]) == 2, what="the worker's row")
    found = roster(database)
    assert [entry.queues for entry in found.workers] == [{"ocr", "merges"}]
    assert (found.listens("merges"), found.listens("celery"), live_slots(database, ["celery"])) == (True, False, 0)
    any_broker.app.control.add_consumer("more", reply=True, timeout=5)
    wait_for(lambda: roster(database).listens("more"), what="a queue that was added later")
    assert started.stop() == 0
    assert live_slots(database) == 0


def test_a_worker_that_was_killed_is_outdated_after_a_lease(sqlite_chords: Bench, worker: Workers) -> None:
    """Nothing of it says so; its row stays, and tells who listened."""
    database = sqlite_chords.progress.database
    killed = worker(MODULE, env=sqlite_chords.env, args=["-Q", "ocr"])
    wait_for(lambda: live_slots(database, ["ocr"]) == 2, what="the worker's row")
    killed.kill()
    wait_for(lambda: live_slots(database, ["ocr"]) == 0, timeout=4 * LEASE, what="the end of its lease")
    assert not roster(database).abandoned("ocr", seconds=3600)


def test_a_worker_whose_process_was_stopped_is_alive_again_when_it_goes_on(
    sqlite_chords: Bench, worker: Workers
) -> None:
    """A lease is no verdict."""
    database = sqlite_chords.progress.database
    stopped = worker(MODULE, env=sqlite_chords.env)
    wait_for(lambda: live_slots(database) == 2, what="the worker's row")
    stopped.signal(signal.SIGSTOP)
    wait_for(lambda: live_slots(database) == 0, timeout=4 * LEASE, what="the end of its lease")
    stopped.signal(signal.SIGCONT)
    wait_for(lambda: live_slots(database) == 2, what="the worker's row again")


def test_children_are_forked_while_the_row_is_written(chords: Bench, worker: Workers) -> None:
    """A new child for every task, and a row several times a second: no child inherits a lock that stays held."""
    beat = ["-B", "--schedule", str(chords.folder / "beat")]
    worker(MODULE, env={**chords.env, "PROGRESS_LEASE_SECONDS": "1"}, args=[*beat, "--max-tasks-per-child", "1"])
    job = chords.chord([chords.work(number) for number in range(12)]).apply_async()
    assert follow(job, timeout=60.0)[-1].chunks.completed == 12


def test_a_worker_works_before_its_table_is_there(sqlite_chords: Bench, worker: Workers) -> None:
    """New code comes before the migration, or on the tables of the revision before."""
    with sqlite_chords.progress.database.engine.begin() as conn:
        progress_workers.drop(conn)
    started = worker(MODULE, env=sqlite_chords.env)
    assert live_slots(sqlite_chords.progress.database) is None
    job = sqlite_chords.chord([sqlite_chords.work(1)]).apply_async()
    assert follow(job)[-1].status.terminal
    with sqlite_chords.progress.database.engine.begin() as conn:
        progress_workers.create(conn)
    wait_for(lambda: live_slots(sqlite_chords.progress.database) == 2, what="the row, once there is a table")
    assert started.new_log.count("presence_not_written") == 1


def test_workers_are_forgotten_after_a_week(database: Database) -> None:
    """Nodes of a cluster have new names every day; those that live stay."""
    for node in ("old@a", "live@b"):
        workers.seen(database, node, queues=["q"], slots=1, lease=30.0)
    with database.engine.begin() as conn:
        conn.execute(
            sa.update(progress_workers)
            .where(progress_workers.c.node == "old@a")
            .values(seen_at=progress_workers.c.seen_at - workers.FORGOTTEN_SECONDS - 1)
        )
    assert workers.forget(database) == 1
    assert [worker.node for worker in roster(database).workers] == ["live@b"]
    assert workers.forget(database) == 0


def test_a_worker_that_comes_back_under_its_name_has_one_row(database: Database) -> None:
    """With what it says now."""
    workers.seen(database, "a@h", queues=["q"], slots=1, lease=30.0)
    workers.gone(database, "a@h")
    assert live_slots(database, ["q"]) == 0
    workers.seen(database, "a@h", queues=["q", "r"], slots=3, lease=30.0)
    assert (live_slots(database, ["q"]), len(roster(database).workers)) == (3, 1)
