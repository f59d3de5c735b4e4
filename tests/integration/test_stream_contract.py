"""One contract for the live streams, whichever framework serves them: Flask, FastAPI, Starlette, Django."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import redis

from celery_progress_ext.jobs import JobSnapshot, JobStatus
from celery_progress_ext.tokens import Tokens
from tests.support.faces import FACES, SECRET, Face, serve_face
from tests.support.live import make_snapshot

Wait = Callable[..., Any]


@pytest.fixture(params=FACES, scope="module")
def served(request: pytest.FixtureRequest, redis_server: Any) -> Iterator[Face]:
    """Each framework, served once for all of these tests: a job has ids of its own."""
    with serve_face(
        request.param, redis_server.database_url(1), keepalive_seconds=0.5, max_streams_per_address=12
    ) as face:
        yield face


@pytest.fixture
def face(served: Face, wait_for: Wait) -> Face:
    """Without a stream of the test before."""
    wait_for(lambda: served.open_streams() == 0, 10, what="the streams of the test before")
    return served


def step(snapshot: JobSnapshot, **changes: Any) -> JobSnapshot:
    """The job's next version."""
    return replace(snapshot, version=snapshot.version + 1, **changes)


def done(snapshot: JobSnapshot) -> JobSnapshot:
    return step(snapshot, status=JobStatus.COMPLETED, progress_pct=100)


def test_a_late_reader_begins_with_what_is_current(face: Face) -> None:
    """After the headers, a comment and the time to reconnect, which come at once; then each version, and the end."""
    job = face.commit(make_snapshot(7))
    with face.follow_job(job) as reader:
        headers = reader.response.headers
        assert reader.response.status == 200
        assert headers.get_content_type() == "text/event-stream"
        assert headers["Cache-Control"] == "no-cache, no-transform"
        assert headers["X-Accel-Buffering"] == "no"
        events = reader.events()
        first = next(events)
        assert reader.lines[:4] == [b": ok\n", b"\n", b"retry:2000\n", b"\n"]
        assert (first.name, first.id, first.payload) == ("progress", "7", job.to_dict())
        job = face.commit(step(job))
        assert next(events).id == "8"
        face.commit(replace(job, pages_done=30), event="heartbeat")
        alive = next(events)
        assert (alive.name, alive.id, alive.payload["pages"]["done"]) == ("heartbeat", None, 30)
        face.commit(done(job))
        assert [(event.name, event.id) for event in events] == [("completed", "9")]


def test_a_reader_after_the_end_gets_it(face: Face) -> None:
    """The terminal event, and the end of the stream."""
    job = face.commit(done(make_snapshot()))
    with face.follow_job(job) as reader:
        assert [event.name for event in reader.events()] == ["completed"]


@pytest.mark.parametrize(("last_id", "status"), [("2", 204), ("3", 204), ("1", 200), ("garbage", 200), ("9" * 20, 200)])
def test_a_reconnect_that_has_the_end_is_asked_to_stop(face: Face, last_id: str, status: int) -> None:
    """EventSource reconnects without end, unless it gets 204. An id that is none of ours is none."""
    job = face.commit(done(make_snapshot()))
    with face.follow_job(job, Last_Event_ID=last_id) as reader:
        assert reader.response.status == status


def test_a_reconnect_gets_only_what_it_has_not(face: Face) -> None:
    """One event however many were missed; a client that claims what is not there yet gets what comes."""
    job = face.commit(make_snapshot(5))
    with ExitStack() as stack:
        behind, current, ahead = (
            stack.enter_context(face.follow_job(job, Last_Event_ID=last_id)) for last_id in ("3", "5", "999")
        )
        assert behind.next_event().id == "5"
        for reader in (current, ahead):
            reader.read_until(b":\n")  # a keepalive: what is current is dealt with
        face.commit(step(job))
        assert behind.next_event().id == current.next_event().id == ahead.next_event().id == "6"


def test_a_slow_reader_skips_and_holds_up_nobody(face: Face) -> None:
    """It gets the newest when it reads again; versions only grow, and the last is the end."""
    job = face.commit(make_snapshot(metadata={"filler": "x" * 100_000}))
    with face.follow_job(job) as slow, face.follow_job(job) as quick:
        slow.next_event()
        events = quick.events()
        next(events)
        for _ in range(80):
            job = face.commit(step(job))
            while int(next(events).id or 0) < job.version:
                pass
        face.commit(done(job))
        assert [event.name for event in events] == ["completed"]
        seen = list(slow.events())
    versions = [int(event.id) for event in seen if event.id is not None]
    assert versions == sorted(set(versions))
    assert (seen[-1].name, len(seen) < 80) == ("completed", True)


def test_a_foreign_reader_gets_nothing(face: Face) -> None:
    """Neither of a job nor of its owner, whatever it asks for, signed in or not."""
    job = face.commit(make_snapshot(stage="a secret"))
    paths = [f"/jobs/{job.job_id}", f"/jobs/{job.job_id}/events", f"/celery-progress/{job.job_id}/"]
    paths += [f"/matters/{job.matter_id}/{what}" for what in ("events", "jobs")]
    for path in paths:
        for user in ("somebody else", None):
            with face.follow(path, user=user) as reader:
                assert reader.response.status == 403, path
                assert b"a secret" not in reader.response.read()


def test_an_unknown_job_is_not_found(face: Face) -> None:
    """For which EventSource gives up, and rightly."""
    for path in ("/jobs/job_unknown/events", "/jobs/job_unknown"):
        with face.follow(path, user="somebody") as reader:
            assert reader.response.status == 404


def test_a_token_opens_its_job_alone(face: Face) -> None:
    """Without the application's rule being asked."""
    job, other = (face.commit(done(make_snapshot())) for _ in range(2))
    token = Tokens([SECRET]).for_job(job.job_id)
    with face.follow(f"/jobs/{job.job_id}/events?token={token}", user=None) as reader:
        assert [event.name for event in reader.events()] == ["completed"]
    with face.follow(f"/jobs/{other.job_id}/events?token={token}", user=other.matter_id) as reader:
        assert reader.response.status == 403
    with face.follow(f"/jobs/{job.job_id}", user=None, Authorization=f"Bearer {token}x") as reader:
        assert reader.response.status == 401


def test_a_snapshot_is_json(face: Face) -> None:
    """The same object as in an event."""
    job = face.commit(make_snapshot())
    with face.follow(f"/jobs/{job.job_id}", user=job.matter_id) as reader:
        assert reader.response.headers["Content-Type"] == "application/json"
        assert json.loads(reader.response.read()) == job.to_dict()


def test_an_owner_s_stream_carries_all_its_jobs(face: Face) -> None:
    """Begins with the open ones, goes on with new ones; a reconnect with its cursor gets the ends that it missed."""
    owner = make_snapshot().matter_id
    job = face.commit(make_snapshot(matter_id=owner, heartbeat_at=1_700_000_000.0))
    face.commit(done(make_snapshot(matter_id=owner)))
    with face.follow(f"/matters/{owner}/events", user=owner) as reader:
        events = reader.events()
        first = next(events)
        assert first.payload["job_id"] == job.job_id
        other = face.commit(make_snapshot(matter_id=owner))
        assert next(events).payload["job_id"] == other.job_id
    face.commit(replace(done(job), finished_at=job.created_at))
    with face.follow(f"/matters/{owner}/events", user=owner, Last_Event_ID=str(first.id)) as reader:
        seen = {event.payload["job_id"]: event.name for _, event in zip(range(2), reader.events(), strict=False)}
    assert seen[job.job_id] == "completed"


def test_a_reader_that_left_is_noticed(face: Face, redis_url: str, wait_for: Wait) -> None:
    """Within a keepalive or two: its place is free, and its channel unsubscribed."""
    job = face.commit(make_snapshot())
    readers = [face.follow_job(job) for _ in range(5)]
    for reader in readers:
        reader.next_event()
    assert face.open_streams() == 5
    for reader in readers:
        reader.close()
    wait_for(lambda: face.open_streams() == 0, 10)
    with redis.Redis.from_url(redis_url) as client:
        wait_for(lambda: client.pubsub_numsub(f"progress:job:{job.job_id}")[0][1] == 0, 10)


def test_a_reader_without_room_is_asked_to_come_back(face: Face) -> None:
    """With 200: EventSource gives up for good on 429 and 503. A HEAD request takes no room."""
    job = face.commit(make_snapshot())
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(face.follow_job(job)).read_until(b"retry:2000\n")
        with face.follow_job(job) as refused:
            assert refused.response.status == 200
            assert refused.response.read() == b"retry:10000\n\n"
