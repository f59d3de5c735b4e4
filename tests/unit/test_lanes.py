"""Which way a message goes: in its lane while somebody listens there, never for good where nobody does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from celery_progress_ext.lanes import JobQueues, chosen, rescued
from celery_progress_ext.roster import Roster, WorkerRecord


def _roster(**alive_until: float) -> Roster:
    """A worker for each queue, as of second 100."""
    workers = (
        WorkerRecord(node=queue, queues=frozenset({queue}), slots=1, seen_at=end - 30, alive_until=end)
        for queue, end in alive_until.items()
    )
    return Roster(now=100.0, workers=tuple(workers))


@pytest.mark.parametrize(
    ("options", "lane", "roster", "expected"),
    [
        ({}, "lane", _roster(lane=110.0), {"queue": "lane"}),
        ({"priority": 3}, "lane", _roster(lane=110.0), {"priority": 3, "queue": "lane"}),
        ({}, "lane", _roster(celery=110.0), {}),
        ({}, "lane", _roster(lane=90.0), {}),
        ({}, "lane", Roster(), {}),
        ({}, None, _roster(lane=110.0), {}),
        ({"queue": "own"}, "lane", _roster(lane=110.0), {"queue": "own"}),
        ({"routing_key": "own"}, "lane", _roster(lane=110.0), {"routing_key": "own"}),
    ],
)
def test_a_lane_is_used_while_a_worker_listens(
    options: Mapping[str, Any], lane: str | None, roster: Roster, expected: Mapping[str, Any]
) -> None:
    """And where the signature does not say itself where it goes."""
    assert chosen(options, lane, roster) == expected


def _queue_of(options: Mapping[str, Any]) -> str:
    return str(options.get("queue") or "celery")


@pytest.mark.parametrize(
    ("options", "roster", "expected"),
    [
        # Out of the lane, and into it.
        ({"queue": "lane", "priority": 1}, _roster(lane=60.0, celery=110.0), {"priority": 1}),
        ({}, _roster(lane=110.0, celery=60.0), {"queue": "lane"}),
        ({}, _roster(lane=110.0), {"queue": "lane"}),
        # A restart, the other way closed too, nothing known, and a way that the signature chose itself.
        ({"queue": "lane"}, _roster(lane=95.0, celery=110.0), None),
        ({"queue": "lane"}, _roster(lane=60.0, celery=60.0), None),
        ({"queue": "lane"}, _roster(lane=110.0, celery=110.0), None),
        ({"queue": "lane"}, Roster(), None),
        ({"queue": "own"}, _roster(lane=110.0), None),
    ],
)
def test_what_lies_where_nobody_listens_is_sent_the_other_way(
    options: Mapping[str, Any], roster: Roster, expected: Mapping[str, Any] | None
) -> None:
    """Once nobody has listened for the silence, and somebody does at the other end."""
    assert rescued(options, "lane", roster, queue_of=_queue_of, silence=30.0) == expected


def test_a_job_of_an_older_or_a_newer_version_is_read() -> None:
    """Without a word of its queues, or with more of them."""
    assert JobQueues.of(None) == JobQueues.of({}) == JobQueues()
    queues = JobQueues(chunks="a", body="b", body_lane="c")
    assert JobQueues.of({**queues.to_dict(), "later": 1}) == queues
