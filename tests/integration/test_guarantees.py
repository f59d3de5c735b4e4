"""What holds whatever meets whatever: each test is a window that was once open."""

from __future__ import annotations

import decimal
import signal
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ChordError

from celery_progress_ext import CeleryProgress, InvalidCanvas, JobNotFound, JobStatus, ids, tracked_chord
from celery_progress_ext.broadcast.memory import MemoryBroadcaster
from celery_progress_ext.context import ProcessContext
from celery_progress_ext.recovery import queries
from celery_progress_ext.storage import chunk_changes, sending
from celery_progress_ext.storage.audit import audit
from celery_progress_ext.storage.follower_claims import Following, claim
from tests.support import sql
from tests.support.chords import Bench, follow
from tests.support.processes import BeatProcess, WorkerProcess
from tests.support.rows import LEASE, Rows
from tests.support.sql import execute
from tests.support.waiting import wait_for

Workers = Callable[..., WorkerProcess]


@pytest.fixture
def postgres_rows(postgres_url: str) -> Any:
    made = Rows(postgres_url)
    yield made
    made.database.dispose()


@pytest.mark.parametrize("end", ["cancel", "reopen"])
def test_a_start_that_is_not_committed_yet_is_waited_for(postgres_rows: Rows, end: str) -> None:
    """G1: a cancel (or a retry) that does not see it would leave a running chunk in a job that is over."""
    rows = postgres_rows
    job_id = rows.create(3)
    if end == "reopen":
        rows.fail(job_id, 2)
    ended: list[Any] = []

    def end_it() -> None:
        ended.append(rows.end(job_id))
        if end == "reopen":
            ended.append(rows.reopen(job_id))

    with rows.database.engine.connect() as conn, conn.begin():
        assert chunk_changes.start(conn, ids.chunk_id(job_id, 1), lease=LEASE, max_tries=3) is not None
        other = threading.Thread(target=end_it)
        other.start()
        wait_for(lambda: _blocked(rows), 10.0, what="the other transaction waits for a lock")
    other.join(10)
    assert None not in ended and len(ended) == (2 if end == "reopen" else 1)
    assert audit(rows.database) == []
    snapshot = rows.jobs.snapshot(job_id)
    assert snapshot.chunks.processing == 0
    assert {chunk["status"] for chunk in rows.jobs.chunks(job_id)} == {"pending"}


def _blocked(rows: Rows) -> bool:
    found = sql.row(rows.database, "SELECT count(*) AS n FROM pg_locks WHERE NOT granted")
    return found is not None and found["n"] > 0


def test_counters_can_not_lie(rows: Rows) -> None:
    """A write that would bend them is an error instead of a row."""
    job_id = rows.create(2)
    for statement in (
        "UPDATE processing_jobs SET pending_chunks = 3",
        "UPDATE processing_jobs SET pending_chunks = -1, processing_chunks = 3",
    ):
        with pytest.raises(Exception, match=r"(?i)check"):
            rows.database.write(lambda conn, text=statement: execute(conn, text))
    assert rows.jobs.snapshot(job_id).chunks.pending == 2


def test_a_message_that_was_not_sent_is_no_try(rows: Rows) -> None:
    """G6: however often the broker refuses it, the chunk is not worn out."""
    job_id = rows.create(1, sent=False)
    rows.pass_time(10 * LEASE)
    for _ in range(5):
        assert sending.jobs_with_unsent_chunks(rows.database, limit=10) == [job_id]
        assert rows.database.write(lambda conn: sending.take_unsent(conn, job_id, lease=LEASE))
        assert sending.jobs_with_unsent_chunks(rows.database, limit=10) == []
        rows.database.write(lambda conn: sending.mark_sent(conn, job_id, [], due=LEASE, lease=LEASE, last=True))
    [chunk] = sending.unsent_chunks(rows.database, job_id, limit=10)
    assert (chunk.chunk.tries, chunk.chunk.dispatches) == (0, 2)
    assert queries.overdue_chunks(rows.database) == []


def test_a_slow_publisher_is_not_overtaken_by_the_tick(rows: Rows) -> None:
    """G8: a chunk is overdue from when it was sent, and its publisher's notes say that it is alive."""
    job_id = rows.create(4, sent=False)
    for index in range(4):
        rows.pass_time(0.8 * LEASE)
        task = (ids.chunk_id(job_id, index), ids.chunk_task_id(job_id, index, 1))
        rows.database.write(
            lambda conn, task=task: sending.mark_sent(conn, job_id, [task], due=LEASE, lease=LEASE, last=False)
        )
        assert sending.jobs_with_unsent_chunks(rows.database, limit=10) == []
    assert [each.chunk.chunk_index for each in queries.overdue_chunks(rows.database)] == [0, 1]


def test_a_clock_that_goes_back_hides_no_dead_worker(rows: Rows) -> None:
    """G10: leases are given for a lease, so one that ends later is cut; a countdown of days is left alone."""
    job_id = rows.create(2, due=86_400.0)
    rows.start(job_id, 0)
    rows.pass_time(-60 * LEASE)
    rows.pass_time(LEASE)
    assert queries.lapsed_chunks(rows.database) == []
    assert queries.clamp_leases(rows.database, lease=LEASE) == 1
    rows.pass_time(LEASE + 1)
    assert [each.chunk.chunk_index for each in queries.lapsed_chunks(rows.database)] == [0]
    assert queries.overdue_chunks(rows.database) == []


def test_an_attempt_that_got_further_is_a_fresh_try(rows: Rows) -> None:
    """A chunk that loses its worker again and again is not given up while it gets on."""
    job_id = rows.create(1)
    for number in range(1, 7):
        change = rows.start(job_id, 0, dead_attempt=number - 1)
        assert change is not None, number
        assert rows.progress(job_id, 0, attempt=number, done=number) is not None


def test_the_error_names_the_first_failed_chunk_from_its_failure_on(rows: Rows) -> None:
    """G23: as the specification has it; and no more once a late success has made it good."""
    job_id = rows.create(4)
    rows.fail(job_id, 2, error="boom")
    assert rows.jobs.snapshot(job_id).error == "Chunk 3 (pages 51-75) failed: boom"
    rows.fail(job_id, 0, error="bang")
    assert rows.jobs.snapshot(job_id).error == "Chunk 1 (pages 1-25) failed: bang; 1 more chunk failed"
    rows.complete(job_id, 0)
    assert rows.jobs.snapshot(job_id).error == "Chunk 3 (pages 51-75) failed: boom"
    rows.complete(job_id, 2)
    assert rows.jobs.snapshot(job_id).error is None


def test_pages_that_were_not_read_make_a_job_partial(rows: Rows) -> None:
    """A chunk that succeeded with reservations: named in every snapshot, read again by a retry, counted exactly."""
    job_id = rows.create(2)
    rows.start(job_id, 0)
    assert rows.reserve(job_id, 0, attempt=1, pages={3: "Page 3 could not be rendered: it is empty."})
    rows.complete(job_id, 0)
    rows.complete(job_id, 1)
    job = rows.finish(job_id, rows.claim(job_id).body_attempt)
    snapshot = rows.snapshots.of(job)
    assert (snapshot.status, snapshot.progress_pct) == (JobStatus.PARTIAL, 100)
    assert snapshot.error == "Page 3 could not be rendered: it is empty."
    [named] = snapshot.to_dict()["failures"]
    assert (named["chunk_index"], named["page_start"], named["message"]) == (0, 3, snapshot.error)
    assert rows.reopen(job_id) is not None
    again = rows.jobs.snapshot(job_id)
    assert (again.chunks.pending, again.chunks.completed, again.error) == (1, 1, None)
    # A success of the message before the retry does not count; the new one's does.
    assert rows.complete(job_id, 0) is None
    assert rows.start(job_id, 0) is not None
    assert rows.complete(job_id, 0, dispatch=2) is not None
    assert rows.finish(job_id, rows.claim(job_id).body_attempt).status is JobStatus.COMPLETED
    assert audit(rows.database) == []


def test_the_rows_win_over_what_readers_were_given(sqlite_chords: Bench) -> None:
    """G22: the database came back without its last writes; a version above the readers' one is broadcast."""
    progress = sqlite_chords.progress
    job = sqlite_chords.chord([sqlite_chords.work(0)]).apply_async()
    for _ in range(5):
        progress.jobs.update(job.id, status=JobStatus.PROCESSING, stage="on")
    ahead = job.snapshot().version
    progress.reconciler.tick()
    progress.database.write(
        lambda conn: execute(
            conn, "UPDATE processing_jobs SET version = 2, status = 'CANCELLED', finished_at = created_at"
        )
    )
    progress.reconciler.tick()
    message = progress.broadcaster.kept(job.id)
    assert message is not None
    assert message.version == ahead + 1 == job.snapshot().version
    assert message.payload["status"] == "CANCELLED"
    assert progress.reconciler.tick()["catch_up"] == 0


def test_nothing_is_kept_for_nobody() -> None:
    """G19: a publisher whose result backend is no Redis."""
    context = ProcessContext(lambda: {"result_backend": "rpc://"})
    broadcaster = context.broadcaster
    assert isinstance(broadcaster, MemoryBroadcaster)
    rows = Rows("sqlite://")
    snapshot = rows.jobs.snapshot(rows.create(1))
    broadcaster.publish(snapshot)
    assert broadcaster.kept(snapshot.job_id) is None
    with broadcaster.subscribe():
        broadcaster.publish(snapshot)
        assert broadcaster.kept(snapshot.job_id) is not None
    assert broadcaster.kept(snapshot.job_id) is None
    rows.database.dispose()


# -- the canvas


def test_a_partial_job_has_its_bodys_result(sqlite_chords: Bench, worker: Workers) -> None:
    """G5: before the end it waits, at the end it is there, and after a retry it is the new merge's."""
    job = sqlite_chords.chord(
        [sqlite_chords.work(0), sqlite_chords.work(1, do="fail", once=sqlite_chords.once())]
    ).apply_async()
    sqlite_chords.start_worker(worker)
    first = job.get(timeout=30)
    assert follow(job)[-1].status is JobStatus.PARTIAL
    job.retry_failed()
    assert follow(job)[-1].status is JobStatus.COMPLETED
    assert job.get(timeout=30) != first


def test_errbacks_run_once_and_only_when_the_job_fails(sqlite_chords: Bench, worker: Workers) -> None:
    """G17: not for a failed chunk that the policy allows."""
    sqlite_chords.start_worker(worker)
    for policy, calls in (("partial", 0), ("fail", 1)):
        out = sqlite_chords.folder / f"errback-{policy}"
        errback = sqlite_chords.app.signature("note", args=(str(out),), immutable=True)
        body = sqlite_chords.merge().on_error(errback)
        members = [sqlite_chords.work(0), sqlite_chords.work(1, do="fail")]
        job = sqlite_chords.chord(members, body, on_chunk_failure=policy).apply_async()
        assert follow(job)[-1].status.terminal
        if calls:
            wait_for(out.exists, 10)
            with pytest.raises(ChordError):
                job.get(timeout=10)
        else:
            job.get(timeout=10)
            time.sleep(1)
        lines = out.read_text().splitlines() if out.exists() else []
        assert len(lines) == calls, policy


def test_a_handle_from_apply_async_waits_for_its_job(sqlite_chords: Bench, worker: Workers) -> None:
    """G14: the first task of a chain publishes it. One that was asked for by id does not wait unless told to."""
    tracked = sqlite_chords.chord([sqlite_chords.work(n).set(immutable=True) for n in (1, 2)])
    job = (sqlite_chords.app.signature("add", args=(5, 1)) | tracked).apply_async()
    with pytest.raises(JobNotFound):
        next(iter(sqlite_chords.progress.job(job.id).watch()))
    sqlite_chords.start_worker(worker)
    assert next(iter(sqlite_chords.progress.job(job.id, wait=30).watch())).job_id == job.id
    assert follow(job)[-1].status is JobStatus.COMPLETED


def test_the_body_may_be_given_in_the_call(sqlite_chords: Bench, worker: Workers) -> None:
    """G13: as `chord(header)(body)`."""
    chunks = [sqlite_chords.work(0)]
    sqlite_chords.start_worker(worker)
    job = tracked_chord(chunks, matter_id="m", document_id="d", app=sqlite_chords.app)(sqlite_chords.merge())
    assert follow(job)[-1].status is JobStatus.COMPLETED
    twice = sqlite_chords.chord(chunks, sqlite_chords.app.signature("nothing"))(sqlite_chords.merge())
    assert follow(twice)[-1].status is JobStatus.COMPLETED


def test_what_celerys_json_takes_is_stored_as_it_was() -> None:
    """G15: UUIDs, datetimes and Decimals; ids that are UUIDs or numbers become text."""
    app = Celery("types", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.progress_database_url = "sqlite://"
    progress = CeleryProgress(app)
    progress.migrate()
    given = [uuid.uuid4(), datetime.now(UTC), decimal.Decimal("1.5")]
    document = uuid.uuid4()
    job = tracked_chord(
        [app.signature("work", args=given)], app.signature("merge"), matter_id=0, document_id=document, app=app
    ).apply_async()
    snapshot = job.snapshot()
    assert (snapshot.matter_id, snapshot.document_id) == ("0", str(document))
    row = progress.database.read(lambda conn: conn.execute(chunk_changes.chunks.select()).one())
    assert row.signature["args"] == given
    for bad in ("", True, 1.5):
        with pytest.raises(InvalidCanvas, match="matter_id"):
            tracked_chord([], None, matter_id=bad, document_id="d")  # type: ignore[arg-type]
    progress.database.dispose()
    app.close()


def test_chunks_in_a_header_are_tasks_of_it(sqlite_chords: Bench) -> None:
    """G16: `task.chunks(…)` is a way to write several."""
    member = sqlite_chords.app.tasks["work"].chunks([(0,), (1,), (2,)], 1)
    job = tracked_chord([member], sqlite_chords.merge(), matter_id="m", document_id="d", app=sqlite_chords.app)
    assert job.apply_async().snapshot().chunks.total == 3


@pytest.mark.parametrize("where", ["body", "chunk"])
def test_a_task_may_be_replaced(sqlite_chords: Bench, worker: Workers, where: str) -> None:
    """G11: the replacement has its id, and the job ends with what that returns; nothing runs twice."""
    sqlite_chords.start_worker(worker)
    out = sqlite_chords.folder / "replaced"
    replaced = sqlite_chords.app.signature("replace", args=(str(out),))
    if where == "body":
        job = sqlite_chords.chord([sqlite_chords.work(0)], replaced).apply_async()
    else:
        chunk = sqlite_chords.app.signature("replace", args=(0, str(out)))
        job = sqlite_chords.chord(
            [chunk, sqlite_chords.work(1)],
            sqlite_chords.app.signature("note", args=(str(sqlite_chords.out),), immutable=True),
        ).apply_async()
    assert follow(job)[-1].status is JobStatus.COMPLETED
    assert out.read_text().splitlines() == ["replacing", "replacement"]
    if where == "body":
        assert job.get(timeout=10) == "replaced"


def test_a_chunk_that_starts_another_job_in_its_place_is_refused_at_once(sqlite_chords: Bench, worker: Workers) -> None:
    """G12: the inner job has a result of its own, so the chunk would never have one."""
    sqlite_chords.start_worker(worker)
    inner = sqlite_chords.app.signature("replace_by_job", args=(str(sqlite_chords.out),))
    job = sqlite_chords.chord([inner, sqlite_chords.work(1)]).apply_async()
    last = follow(job)[-1]
    assert last.status is JobStatus.PARTIAL
    assert "cannot replace itself by a tracked_chord" in last.failures[0].message


def test_what_follows_a_job_runs_once_however_often_it_is_published(chords: Bench, worker: Workers) -> None:
    """G4: its publisher dies before it has noted that it published; the tick publishes again, under the same id."""
    noted = chords.folder / "noted"
    follower = chords.app.signature("note", args=(str(noted),), immutable=True)
    canvas = chords.chord([chords.work(1)]) | follower
    canvas.apply_async()
    chords.start_worker(worker)
    wait_for(noted.exists, 20, what="the task that follows")
    database = chords.progress.database
    wait_for(
        lambda: sql.row(database, "SELECT followed_at FROM processing_jobs")["followed_at"] is not None,  # type: ignore[index]
        10,
        what="the publisher's note",
    )
    database.write(
        lambda conn: execute(conn, "UPDATE processing_jobs SET followed_at = NULL, finished_at = finished_at - 60")
    )
    assert chords.progress.reconciler.tick()["conclude"] == 1
    chords.app.signature("note", args=(str(noted), "behind it")).apply_async()
    wait_for(lambda: "behind it" in noted.read_text(), 20, what="the queue to be empty")
    assert noted.read_text().split("\n") == ["noted", "behind it", ""]


def test_which_message_of_a_follower_runs(rows: Rows) -> None:
    """That of the publication which came first, also when it is delivered again; a retry's end is another one."""
    job_id = rows.create(1)

    def runs(version: int, publication: str, job: str = job_id) -> bool:
        following = Following(job_id=job, version=version, publication=publication)
        return rows.database.write(lambda conn: claim(conn, "follower", following))

    assert [runs(5, "a"), runs(5, "a"), runs(5, "b"), runs(5, "a")] == [True, True, False, True]
    assert [runs(9, "c"), runs(9, "d"), runs(5, "a")] == [True, False, False]
    assert runs(5, "a", job="a job of another database")


@pytest.mark.parametrize("kind", ["sqlalchemy", "driver"])
def test_a_body_can_end_its_job_in_the_users_own_transaction(chords: Bench, kind: str) -> None:
    """Both take effect, or neither; what was committed is the job's result although its worker died right after it."""
    database = chords.progress.database
    database.write(lambda conn: execute(conn, "CREATE TABLE merged (document TEXT)"))
    job = chords.chord([chords.work(0)]).apply_async()
    recording = chords.progress.recording
    recording.chunks.succeeded(ids.TaskId(job.id, 0, 1), result=0)
    claimed = recording.bodies.claimed(ids.TaskId(job.id, None, 1), f"{job.id}.b1")
    assert claimed is not None

    def effect(conn: Any) -> None:
        execute(conn, "INSERT INTO merged VALUES ('d')")
        given = conn if kind == "sqlalchemy" else conn.connection.driver_connection
        assert recording.bodies.finish_in(given, job.id, attempt=claimed.body_attempt, result={"pages": 7})

    with database.engine.connect() as conn:
        transaction = conn.begin()
        effect(conn)
        transaction.rollback()
    assert job.snapshot().status is JobStatus.PROCESSING
    assert sql.rows(database, "SELECT * FROM merged") == []
    with database.engine.connect() as conn, conn.begin():
        effect(conn)
    assert job.snapshot().status is JobStatus.COMPLETED
    assert sql.rows(database, "SELECT * FROM merged") == [{"document": "d"}]
    database.write(lambda conn: execute(conn, "UPDATE processing_jobs SET finished_at = finished_at - 60"))
    assert chords.progress.reconciler.tick()["conclude"] == 1
    assert job.get(timeout=5) == {"pages": 7}
    assert chords.progress.reconciler.tick()["conclude"] == 0
    assert chords.progress.audit() == []


def test_beat_ends_however_many_signals_it_gets(sqlite_chords: Bench, beat: Callable[..., BeatProcess]) -> None:
    """G24: a second SIGTERM would strike while Celery's handler holds a lock, and beat would hang."""
    for _ in range(3):
        running = beat("tests.support.chord_app", env=sqlite_chords.env)
        for _ in range(30):
            if running.alive:
                running.signal(signal.SIGTERM)
        wait_for(lambda running=running: not running.alive, 10.0, what="beat has ended")
