"""The hub, its topics and its mailboxes, without a server or a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest

from celery_progress_ext.broadcast import BroadcastLost, Message, job_channel, matter_channel
from celery_progress_ext.broadcast.memory import MemoryBroadcaster, MemorySubscription
from celery_progress_ext.exceptions import DatabaseAway
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from celery_progress_ext.sse.hub import CLOSED, Closed, Frame, Hub, Mailbox, Topic
from celery_progress_ext.sse.published import Published
from celery_progress_ext.sse.snapshot_reader import DatabaseLate, SnapshotReader
from celery_progress_ext.sse.streams import ChannelTopic, JobTopic, MatterTopic
from tests.support.live import JobsInMemory, make_snapshot

Wait = Callable[..., Any]


class BreakableBroadcaster(MemoryBroadcaster):
    """A broadcaster whose subscriptions can be broken, and refused for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.refusing = False
        self.opened: list[MemorySubscription] = []

    def subscribe(self) -> MemorySubscription:
        if self.refusing:
            raise BroadcastLost
        self.opened.append(super().subscribe())
        return self.opened[-1]

    def break_all(self) -> None:
        for subscription in self.opened:
            subscription.close()


@pytest.fixture
def broadcaster() -> BreakableBroadcaster:
    return BreakableBroadcaster()


@pytest.fixture
def jobs() -> JobsInMemory:
    return JobsInMemory()


@pytest.fixture
def reader(jobs: JobsInMemory, broadcaster: BreakableBroadcaster) -> SnapshotReader:
    return SnapshotReader(jobs, broadcaster)


@pytest.fixture
def hub(broadcaster: BreakableBroadcaster) -> Iterator[Hub]:
    made = Hub(broadcaster, poll_seconds=0.1)
    yield made
    made.close()


@pytest.fixture
def follow(hub: Hub, reader: SnapshotReader) -> Callable[..., AbstractContextManager[Topic]]:
    """``follow(mailbox, snapshot)``: a client of the snapshot's job."""

    def make(mailbox: Mailbox, snapshot: JobSnapshot, **options: Any) -> AbstractContextManager[Topic]:
        return hub.follow(
            mailbox,
            job_channel(snapshot.job_id),
            lambda channel: JobTopic(channel, reader, snapshot.job_id),
            **options,
        )

    return make


@pytest.fixture
def follow_matter(hub: Hub, reader: SnapshotReader) -> Callable[..., AbstractContextManager[Topic]]:
    """``follow_matter(mailbox, matter_id)``: a client of a matter."""

    def make(mailbox: Mailbox, matter_id: str, **options: Any) -> AbstractContextManager[Topic]:
        return hub.follow(
            mailbox, matter_channel(matter_id), lambda channel: MatterTopic(channel, reader, matter_id), **options
        )

    return make


def frame_of(item: Frame | Closed | None) -> Frame:
    assert isinstance(item, Frame), f"{item!r} instead of a frame"
    return item


def event_of(item: Frame | Closed | None) -> tuple[str, str | None]:
    """The event and the id of a frame."""
    fields = dict(line.split(":", 1) for line in frame_of(item).wire.decode().splitlines() if line)
    return fields["event"], fields.get("id")


def step(snapshot: JobSnapshot, version: int, **changes: Any) -> JobSnapshot:
    return replace(snapshot, version=version, **changes)


def test_a_client_begins_with_what_is_current(jobs: JobsInMemory, follow: Any) -> None:
    """Read after the subscription stands, so that nothing falls between."""
    snapshot = jobs.put(make_snapshot(7))
    mailbox = Mailbox()
    with follow(mailbox, snapshot):
        assert event_of(mailbox.get(0)) == ("progress", "7")


def test_a_message_reaches_the_clients_of_its_channel(
    jobs: JobsInMemory, broadcaster: BreakableBroadcaster, follow: Any
) -> None:
    """And no other."""
    first, second = jobs.put(make_snapshot()), jobs.put(make_snapshot())
    mailbox, other = Mailbox(), Mailbox()
    with follow(mailbox, first, last_id=1), follow(other, second, last_id=1):
        broadcaster.publish(step(first, 2))
        frame = frame_of(mailbox.get(5))
        assert (frame.key, frame.last) == (first.job_id, False)
        assert frame.wire.startswith(b'event:progress\ndata:{"job_id":"' + first.job_id.encode())
        assert frame.wire.endswith(b"\nid:2\n\n")
        assert other.get(0) is None


def test_all_clients_share_one_subscription_and_one_encoding(
    jobs: JobsInMemory, broadcaster: BreakableBroadcaster, follow: Any
) -> None:
    """A message costs its encoding once, however many read it, also as a chunk of HTTP."""
    snapshot = jobs.put(make_snapshot())
    one, two = Mailbox(), Mailbox()
    with follow(one, snapshot, last_id=1), follow(two, snapshot, last_id=1):
        broadcaster.publish(step(snapshot, 2))
        frames = [frame_of(mailbox.get(5)) for mailbox in (one, two)]
    assert frames[0] is frames[1]
    assert frames[0].chunk is frames[1].chunk
    assert frames[0].chunk == b"%X\r\n%b\r\n" % (len(frames[0].wire), frames[0].wire)
    assert len(broadcaster.opened) == 1


def test_clients_that_come_at_once_share_their_reads(jobs: JobsInMemory, follow: Any) -> None:
    """A thousand browsers after a deploy are not a thousand queries. Each gets what was read after it came."""
    snapshot = jobs.put(make_snapshot())
    mailboxes = [Mailbox() for _ in range(100)]
    begun = threading.Barrier(len(mailboxes))

    def come(mailbox: Mailbox) -> None:
        begun.wait()
        with follow(mailbox, snapshot):
            pass

    threads = [threading.Thread(target=come, args=(mailbox,)) for mailbox in mailboxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(event_of(mailbox.get(0)) == ("progress", "1") for mailbox in mailboxes)
    assert jobs.reads < 20


def test_a_slow_client_gets_only_the_newest(
    jobs: JobsInMemory, broadcaster: BreakableBroadcaster, follow: Any, wait_for: Wait
) -> None:
    """Every event is a whole snapshot, so what it skips it does not miss, and nothing piles up."""
    snapshot = jobs.put(make_snapshot(0))
    slow, quick = Mailbox(), Mailbox()
    with follow(slow, snapshot), follow(quick, snapshot):
        for version in range(1, 101):
            broadcaster.publish(step(snapshot, version))
        wait_for(lambda: event_of(quick.get(5))[1] == "100")
        assert event_of(slow.get(5))[1] == "100"
        assert slow.get(0) is None


def test_a_client_of_a_channel_that_is_too_far_behind_is_given_up(hub: Hub) -> None:
    """Events of an ordinary channel replace nothing, so they would pile up; EventSource connects again."""
    mailbox = Mailbox(limit=10)
    with hub.follow(mailbox, "news", ChannelTopic) as topic:
        for number in range(10):
            topic.receive(b'{"data": %d}' % number)
        assert frame_of(mailbox.get(0)).wire == b"data:0\n\n"
        for _ in range(2):
            topic.receive(b'{"data": "more"}')
        assert mailbox.get(0) is CLOSED


def test_each_job_of_a_matter_has_a_place_of_its_own(broadcaster: BreakableBroadcaster, follow_matter: Any) -> None:
    """A busy job does not push out a quiet one; and the id is when the snapshot was read, not a version."""
    jobs = [make_snapshot(matter_id="m", heartbeat_at=1_700_000_000.5) for _ in range(3)]
    mailbox = Mailbox()
    with follow_matter(mailbox, "m"):
        for job in jobs:
            broadcaster.publish(job)
        frames = [frame_of(mailbox.get(5)) for _ in jobs]
    assert [frame.key for frame in frames] == [job.job_id for job in jobs]
    assert [event_of(frame)[1] for frame in frames] == ["1700000000500"] * 3


@pytest.mark.parametrize(
    ("current", "messages", "sent"),
    [
        pytest.param(0, [(2, False), (1, False)], ("progress", "2"), id="an older one never replaces a newer one"),
        pytest.param(2, [(1, False)], None, id="an older one never follows"),
        pytest.param(2, [(2, False)], None, id="what the client has is not sent again"),
        pytest.param(2, [(2, True)], ("heartbeat", None), id="a heartbeat shows that the job lives"),
        pytest.param(2, [(1, True)], None, id="an old heartbeat is dropped"),
        pytest.param(1, [(2, True)], ("progress", "2"), id="a heartbeat heals an event that was lost"),
        pytest.param(1, [(2, False), (2, True)], ("progress", "2"), id="a heartbeat does not replace the event before"),
        pytest.param(2, [(2, True), (3, False)], ("progress", "3"), id="an event replaces the heartbeat before it"),
    ],
)
def test_versions_only_grow(
    jobs: JobsInMemory, follow: Any, current: int, messages: list[tuple[int, bool]], sent: tuple[str, str] | None
) -> None:
    """Whatever order messages arrive in."""
    snapshot = jobs.put(make_snapshot(current))
    mailbox = Mailbox()
    with follow(mailbox, snapshot) as topic:
        mailbox.get(0)
        for version, unchanged in messages:
            topic.accept(Published(step(snapshot, version).to_dict()), unchanged=unchanged)
        item = mailbox.get(0)
        assert item is None if sent is None else event_of(item) == sent
        assert mailbox.get(0) is None


def test_the_end_of_a_job_outlives_late_messages(jobs: JobsInMemory, follow: Any, follow_matter: Any) -> None:
    """The end of a job is never lost behind what was under way when it came."""
    job = jobs.put(make_snapshot(7, matter_id="m"))
    for mailbox, following in ((one := Mailbox(), follow(one, job)), (two := Mailbox(), follow_matter(two, "m"))):
        with following as topic:
            mailbox.get(0)
            topic.accept(Published(step(job, 9, status=JobStatus.COMPLETED).to_dict()))
            topic.accept(Published(step(job, 8).to_dict()))
            topic.accept(Published(step(job, 8).to_dict()), unchanged=True)
            assert event_of(mailbox.get(0))[0] == "completed"
            assert mailbox.get(0) is None


def test_a_reconnect_to_a_matter_gets_the_ends_that_it_missed(jobs: JobsInMemory, follow_matter: Any) -> None:
    """By the cursor, which is the id of the last event it had: what ended since, beside what is open."""
    old = make_snapshot(3, matter_id="m", status=JobStatus.FAILED, finished_at=1_700_000_000.0)
    missed = make_snapshot(5, matter_id="m", status=JobStatus.COMPLETED, finished_at=1_700_001_000.0)
    running = make_snapshot(2, matter_id="m")
    for job in (old, missed, running):
        jobs.put(job)
    mailbox, new = Mailbox(), Mailbox()
    with follow_matter(mailbox, "m", last_id=1_700_000_900_000), follow_matter(new, "m"):
        assert [frame.key for frame in mailbox.take_all()] == [running.job_id, missed.job_id]
        assert [frame.key for frame in new.take_all()] == [running.job_id]


def test_the_last_client_of_a_channel_unsubscribes(
    hub: Hub, jobs: JobsInMemory, broadcaster: BreakableBroadcaster, follow: Any
) -> None:
    """And not the one before."""
    snapshot = jobs.put(make_snapshot())
    channel = job_channel(snapshot.job_id)
    with follow(Mailbox(), snapshot):
        with follow(Mailbox(), snapshot):
            assert hub.clients == {channel: 2}
        assert hub.clients == {channel: 1}
        assert channel in broadcaster.opened[0]._channels
    assert hub.clients == {}
    assert channel not in broadcaster.opened[0]._channels


def test_a_broken_connection_is_mended_and_every_topic_read_again(
    hub: Hub, jobs: JobsInMemory, broadcaster: BreakableBroadcaster, follow: Any, wait_for: Wait
) -> None:
    """What was published meanwhile is lost, so the rows are polled until messages come again."""
    snapshot = jobs.put(make_snapshot())
    mailbox = Mailbox()
    with follow(mailbox, snapshot, last_id=1):
        broadcaster.refusing = True
        broadcaster.break_all()
        wait_for(lambda: not hub.connected, 5)
        jobs.put(step(snapshot, 2))
        wait_for(lambda: event_of(mailbox.get(5)) == ("progress", "2"), 5)
        assert event_of(mailbox.get(5)) == ("heartbeat", None)  # never silent
        broadcaster.refusing = False
        wait_for(lambda: hub.connected, 5)
        mailbox.take_all()
        broadcaster.publish(step(snapshot, 3))
        wait_for(lambda: event_of(mailbox.get(5)) == ("progress", "3"), 5)


def test_a_client_may_come_while_the_broadcaster_is_away(
    hub: Hub, jobs: JobsInMemory, broadcaster: BreakableBroadcaster, follow: Any
) -> None:
    """It gets what is in the rows."""
    broadcaster.refusing = True
    snapshot = jobs.put(make_snapshot())
    mailbox = Mailbox()
    with follow(mailbox, snapshot):
        assert not hub.connected
        assert event_of(mailbox.get(5)) == ("progress", "1")


def test_what_is_no_snapshot_does_not_end_the_reader(
    jobs: JobsInMemory, broadcaster: BreakableBroadcaster, follow: Any
) -> None:
    """One bad message would else silence every stream of the process."""
    snapshot = jobs.put(make_snapshot())
    mailbox = Mailbox()
    with follow(mailbox, snapshot, last_id=1):
        broadcaster.opened[0].offer(job_channel(snapshot.job_id), Message("progress", 1, {"not": "a snapshot"}))
        broadcaster.publish(step(snapshot, 2))
        assert event_of(mailbox.get(5)) == ("progress", "2")
    assert len(broadcaster.opened) == 1


def test_closing_wakes_every_client(hub: Hub, jobs: JobsInMemory, follow: Any) -> None:
    """A deploy must not wait for a keepalive; who comes later is sent away at once."""
    snapshot = jobs.put(make_snapshot())
    mailbox, late = Mailbox(), Mailbox()
    with follow(mailbox, snapshot, last_id=1):
        got: list[Frame | Closed | None] = []
        thread = threading.Thread(target=lambda: got.append(mailbox.get(30)))
        thread.start()
        hub.close()
        thread.join(5)
        assert got == [CLOSED]
    with follow(late, snapshot):
        assert late.get(30) is CLOSED


def test_clients_that_come_and_go_at_once_leave_nothing_behind(
    hub: Hub, jobs: JobsInMemory, broadcaster: BreakableBroadcaster, follow: Any
) -> None:
    """Coming and going on one channel never unsubscribes somebody who is still there."""
    snapshot = jobs.put(make_snapshot())

    def come_and_go() -> None:
        for _ in range(3):
            with follow(Mailbox(), snapshot):
                pass

    mailbox = Mailbox()
    with follow(mailbox, snapshot, last_id=1):
        threads = [threading.Thread(target=come_and_go) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        broadcaster.publish(step(snapshot, 2))
        assert event_of(mailbox.get(5)) == ("progress", "2")
    assert hub.clients == {}


class SlowJobs(JobsInMemory):
    """A job service whose database hangs until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def snapshot(self, job_id: str) -> JobSnapshot:
        self.let_go.wait(30)
        return super().snapshot(job_id)


def test_a_database_that_hangs_is_not_waited_for(broadcaster: BreakableBroadcaster, wait_for: Wait) -> None:
    """The kept snapshot serves, at once for all that come later; and the rows again when they can be read."""
    jobs = SlowJobs()
    reader = SnapshotReader(jobs, broadcaster)
    first, second = (jobs.put(make_snapshot(3)) for _ in range(2))
    for job in (first, second):
        broadcaster.publish(step(job, 2))

    def version_of(job: JobSnapshot) -> int:
        published = reader.of_job(job.job_id)
        assert published is not None
        return published.version

    assert version_of(first) == 2
    assert version_of(second) == 2
    jobs.let_go.set()
    wait_for(lambda: version_of(first) == 3 and version_of(second) == 3, 5)
    assert issubclass(DatabaseLate, DatabaseAway)
