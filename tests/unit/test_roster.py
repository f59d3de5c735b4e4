"""Who listens to what, from what the workers said of themselves."""

from __future__ import annotations

from celery_progress_ext.roster import Roster, WorkerRecord


def _worker(node: str, *queues: str, slots: int = 2, seen_at: float = 95.0, alive_until: float = 125.0) -> WorkerRecord:
    return WorkerRecord(node=node, queues=frozenset(queues), slots=slots, seen_at=seen_at, alive_until=alive_until)


ROSTER = Roster(
    now=100.0,
    workers=(
        _worker("a", "ocr", "merges"),
        _worker("b", "ocr", slots=4),
        _worker("dead", "old", "ocr", slots=8, seen_at=30.0, alive_until=60.0),
    ),
)


def test_slots_are_those_of_live_workers_that_listen() -> None:
    """A worker of two of the queues counts once, a dead one not at all."""
    assert ROSTER.slots(["ocr"]) == 6
    assert ROSTER.slots(["ocr", "merges"]) == 6
    assert ROSTER.slots(["merges"]) == 2
    assert ROSTER.slots() == 6
    assert ROSTER.slots(["old"]) == 0


def test_a_queue_is_abandoned_once_nobody_has_listened_for_long_enough() -> None:
    """A restart is shorter; a queue that nobody ever listened to is abandoned at once."""
    assert not ROSTER.listens("old")
    assert not ROSTER.abandoned("old", seconds=50.0)
    assert ROSTER.abandoned("old", seconds=30.0)
    assert ROSTER.abandoned("never", seconds=30.0)
    assert not ROSTER.abandoned("ocr", seconds=0.0)


def test_without_a_worker_nothing_is_known() -> None:
    """Workers of an older version say nothing: no queue is called abandoned for that."""
    assert not Roster().known
    assert not Roster().abandoned("celery", seconds=0.0)
    assert Roster().last_seen_at is None
