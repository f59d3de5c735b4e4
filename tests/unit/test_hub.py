"""The hub and its mailboxes, without a server or a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_progress_ext.broadcast import BroadcastLost, Message, job_channel, matter_channel
from celery_progress_ext.broadcast.memory import MemoryBroadcaster, MemorySubscription
from celery_progress_ext.jobs import JobSnapshot, JobStatus
from celery_progress_ext.sse.hub import Frame, Hub, Mailbox, Notice, Published
from tests.support.live import make_snapshot

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
def hub(broadcaster: BreakableBroadcaster) -> Iterator[Hub]:
    made = Hub(broadcaster)
    yield made
    made.close()


def connect(hub: Hub, snapshot: JobSnapshot, **options: Any) -> Mailbox:
    return hub.connect([job_channel(snapshot.job_id)], **options)


def frame_of(item: Frame | Notice | None) -> Frame:
    assert isinstance(item, Frame), f"{item!r} instead of a frame"
    return item


def test_a_message_reaches_the_mailboxes_of_its_channel(hub: Hub, broadcaster: BreakableBroadcaster) -> None:
    """And no other."""
    first, second = make_snapshot(), make_snapshot()
    with connect(hub, first) as mailbox, connect(hub, second) as other:
        broadcaster.publish(first)
        frame = frame_of(mailbox.get(5))
        assert (frame.job_id, frame.version, frame.terminal) == (first.job_id, 1, False)
        assert frame.wire.startswith(b'event:progress\ndata:{"job_id":"' + first.job_id.encode())
        assert frame.wire.endswith(b"\nid:1\n\n")
        assert other.get(0) is None


def test_all_clients_share_one_subscription_and_one_encoding(hub: Hub, broadcaster: BreakableBroadcaster) -> None:
    """A message costs its encoding once, however many read it."""
    snapshot = make_snapshot()
    with connect(hub, snapshot) as one, connect(hub, snapshot) as two:
        broadcaster.publish(snapshot)
        assert frame_of(one.get(5)).wire is frame_of(two.get(5)).wire
    assert len(broadcaster.opened) == 1


def test_a_slow_client_gets_only_the_newest(hub: Hub, broadcaster: BreakableBroadcaster, wait_for: Wait) -> None:
    """Every event is a whole snapshot, so what it skips it does not miss, and nothing piles up."""
    snapshot = make_snapshot()
    with connect(hub, snapshot) as slow, connect(hub, snapshot) as quick:
        for version in range(1, 101):
            broadcaster.publish(make_snapshot(version, job_id=snapshot.job_id))
        wait_for(lambda: frame_of(quick.get(5)).version == 100)
        assert frame_of(slow.get(5)).version == 100
        assert slow.get(0) is None


def test_each_job_of_a_matter_has_a_place_of_its_own(hub: Hub, broadcaster: BreakableBroadcaster) -> None:
    """A busy job does not push out a quiet one; and frames of many jobs carry no id."""
    jobs = [make_snapshot(matter_id="m") for _ in range(3)]
    with hub.connect([matter_channel("m")], numbered=False) as mailbox:
        for job in jobs:
            broadcaster.publish(job)
        frames = [frame_of(mailbox.get(5)) for _ in jobs]
    assert [frame.job_id for frame in frames] == [job.job_id for job in jobs]
    assert all(b"\nid:" not in frame.wire for frame in frames)


def offer(mailbox: Mailbox, snapshot: JobSnapshot, *, unchanged: bool = False) -> None:
    """What the reader does with a message."""
    mailbox.offer(Published(snapshot.to_dict()), unchanged=unchanged)


@pytest.mark.parametrize(
    ("marked", "messages", "sent"),
    [
        pytest.param(-1, [(2, False), (1, False)], b"id:2", id="an older one never replaces a newer one"),
        pytest.param(2, [(1, False)], None, id="an older one never follows"),
        pytest.param(2, [(2, False)], None, id="what the client has is not sent again"),
        pytest.param(2, [(2, True)], b"event:heartbeat", id="a heartbeat shows that the job lives"),
        pytest.param(2, [(1, True)], None, id="an old heartbeat is dropped"),
        pytest.param(1, [(2, True)], b"id:2", id="a heartbeat heals an event that was lost"),
        pytest.param(1, [(2, False), (2, True)], b"id:2", id="a heartbeat does not replace the event before it"),
        pytest.param(2, [(2, True), (3, False)], b"id:3", id="an event replaces the heartbeat before it"),
    ],
)
def test_versions_only_grow(hub: Hub, marked: int, messages: list[tuple[int, bool]], sent: bytes | None) -> None:
    """Whatever order messages arrive in."""
    snapshot = make_snapshot()
    with connect(hub, snapshot) as mailbox:
        mailbox.mark(snapshot.job_id, marked)
        for version, unchanged in messages:
            offer(mailbox, make_snapshot(version, job_id=snapshot.job_id), unchanged=unchanged)
        item = mailbox.get(0)
        assert (sent in frame_of(item).wire) if sent else item is None
        assert mailbox.get(0) is None


def test_marking_a_version_drops_what_waits_of_it(hub: Hub) -> None:
    """The snapshot that was read after the subscription may be newer than messages that came meanwhile."""
    snapshot = make_snapshot()
    with connect(hub, snapshot) as mailbox:
        for version in (1, 2):
            offer(mailbox, make_snapshot(version, job_id=snapshot.job_id))
        mailbox.mark(snapshot.job_id, 2)
        assert mailbox.get(0) is None
        assert mailbox.marked(snapshot.job_id) == 2


def test_a_terminal_frame_outlives_late_messages(hub: Hub) -> None:
    """The end of a job is never lost behind what was under way when it came."""
    done = make_snapshot(9, status=JobStatus.COMPLETED)
    late = make_snapshot(8, job_id=done.job_id)
    with connect(hub, done) as mailbox:
        offer(mailbox, done)
        offer(mailbox, late)
        offer(mailbox, late, unchanged=True)
        frame = frame_of(mailbox.get(0))
        assert frame.terminal
        assert frame.wire.startswith(b"event:completed\n")


def test_the_last_client_of_a_channel_unsubscribes(hub: Hub, broadcaster: BreakableBroadcaster) -> None:
    """And not the one before."""
    snapshot = make_snapshot()
    channel = job_channel(snapshot.job_id)
    with connect(hub, snapshot):
        with connect(hub, snapshot):
            assert hub.clients == {channel: 2}
        assert hub.clients == {channel: 1}
        assert channel in broadcaster.opened[0]._channels
    assert hub.clients == {}
    assert channel not in broadcaster.opened[0]._channels


def test_a_broken_connection_is_mended_and_every_client_told(
    hub: Hub, broadcaster: BreakableBroadcaster, wait_for: Wait
) -> None:
    """What was published meanwhile is lost, so clients read the current snapshot again, and messages come again."""
    snapshot = make_snapshot()
    with connect(hub, snapshot) as mailbox:
        broadcaster.refusing = True
        broadcaster.break_all()
        assert mailbox.get(5) is Notice.RESYNC
        assert not hub.connected
        broadcaster.publish(snapshot)
        broadcaster.refusing = False
        assert mailbox.get(5) is Notice.RESYNC
        assert hub.connected
        broadcaster.publish(make_snapshot(2, job_id=snapshot.job_id))
        assert frame_of(mailbox.get(5)).version == 2


def test_a_client_may_connect_while_the_broadcaster_is_away(hub: Hub, broadcaster: BreakableBroadcaster) -> None:
    """It is told when messages come."""
    broadcaster.refusing = True
    snapshot = make_snapshot()
    with connect(hub, snapshot) as mailbox:
        assert not hub.connected
        broadcaster.refusing = False
        assert mailbox.get(5) is Notice.RESYNC
        broadcaster.publish(snapshot)
        assert frame_of(mailbox.get(5)).version == 1


def test_what_is_no_snapshot_does_not_end_the_reader(hub: Hub, broadcaster: BreakableBroadcaster) -> None:
    """One bad message would else silence every stream of the process."""
    snapshot = make_snapshot()
    with connect(hub, snapshot) as mailbox:
        broadcaster.opened[0].offer(job_channel(snapshot.job_id), Message("progress", 1, {"not": "a snapshot"}))
        broadcaster.publish(snapshot)
        assert frame_of(mailbox.get(5)).version == 1
    assert len(broadcaster.opened) == 1


def test_closing_wakes_every_client(hub: Hub) -> None:
    """A deploy must not wait for a keepalive; who comes later is sent away at once."""
    snapshot = make_snapshot()
    with connect(hub, snapshot) as mailbox:
        got: list[Frame | Notice | None] = []
        thread = threading.Thread(target=lambda: got.append(mailbox.get(30)))
        thread.start()
        hub.close()
        thread.join(5)
        assert got == [Notice.CLOSED]
    with connect(hub, snapshot) as late:
        assert late.get(30) is Notice.CLOSED


def test_clients_that_come_and_go_at_once_leave_nothing_behind(hub: Hub, broadcaster: BreakableBroadcaster) -> None:
    """Coming and going on one channel never unsubscribes somebody who is still there."""
    snapshot = make_snapshot()

    def come_and_go() -> None:
        for _ in range(50):
            with connect(hub, snapshot):
                pass

    with connect(hub, snapshot) as steady:
        threads = [threading.Thread(target=come_and_go) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        broadcaster.publish(snapshot)
        assert frame_of(steady.get(5)).version == 1
    assert hub.clients == {}
