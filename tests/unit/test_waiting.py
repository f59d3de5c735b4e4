"""Waiting is told apart from working, and the bar of work never goes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_progress_ext.roster import Roster, WorkerRecord
from celery_progress_ext.waiting import (
    SILENCE_SECONDS,
    TURN_SECONDS,
    Backlog,
    Before,
    QueuedJob,
    Standing,
    Waiting,
    waiting_of,
    work_pct,
)
from celery_progress_ext.wording import moment

WORKING = Standing(
    now=1000.0,
    created_at=0.0,
    changed_at=900.0,
    started=True,
    at_work=2,
    silent=0,
    settled=False,
    merging=False,
    body_alive=False,
    queue="ocr",
)
NOBODY_KNOWN = Roster()


def _roster(*queues: str, seen_at: float = 995.0) -> Roster:
    """One worker, which listens to these queues and is alive for ten seconds after it was seen."""
    worker = WorkerRecord(node="a", queues=frozenset(queues), slots=2, seen_at=seen_at, alive_until=seen_at + 10)
    return Roster(now=1000.0, workers=(worker,))


def _waiting(standing: Standing, roster: Roster = NOBODY_KNOWN, before: Before | None = None) -> Waiting | None:
    return waiting_of(standing, roster, before or Before())


IDLE = replace(WORKING, at_work=0)
MERGE_DUE = replace(IDLE, settled=True)
TWO_BEFORE = Before(jobs=2, pages=900)


@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (WORKING, None),
        (replace(WORKING, silent=1), None),
        (replace(WORKING, merging=True, at_work=0, body_alive=True), None),
        (replace(IDLE, started=False), "No worker has started it yet."),
        (IDLE, "No worker is at work on it."),
        (replace(IDLE, silent=2), "No worker gives a sign of life; what was at work will be started again."),
        (
            replace(IDLE, silent=2, no_beat=True),
            "No worker gives a sign of life; no beat runs, which would have what was at work started again: start one"
            " (celery -A APP beat).",
        ),
        (MERGE_DUE, "The merge waits for a free worker."),
        (replace(MERGE_DUE, merging=True), "The merge's worker gives no sign of life; it will be started again."),
        (replace(WORKING, stuck_since=850.0), "Nothing has moved for 3 min: what is at work is stuck."),
    ],
)
def test_each_reason_has_its_sentence(standing: Standing, reason: str | None) -> None:
    """And what is at work has none; of workers nothing is known here."""
    waiting = _waiting(standing)
    assert (waiting and waiting.reason) == reason


@pytest.mark.parametrize(
    ("standing", "roster", "before", "reason", "moves"),
    [
        (IDLE, _roster("ocr", seen_at=960.0), TWO_BEFORE, "No worker has answered for 40 s.", False),
        (MERGE_DUE, _roster("ocr", seen_at=960.0), None, "No worker has answered for 40 s.", False),
        (IDLE, _roster("other"), TWO_BEFORE, "No worker listens to queue ocr.", False),
        (MERGE_DUE, _roster("other"), None, "The merge waits: no worker listens to queue ocr.", False),
        (IDLE, _roster("ocr"), TWO_BEFORE, "2 documents, 900 pages before it.", True),
        (IDLE, _roster("ocr"), Before(jobs=1), "1 document before it.", True),
        (replace(IDLE, unit="rows"), _roster("ocr"), TWO_BEFORE, "2 jobs, 900 rows before it.", True),
        (MERGE_DUE, _roster("ocr"), TWO_BEFORE, "The merge waits: 2 documents, 900 pages before it.", True),
        (MERGE_DUE, _roster("ocr"), None, "The merge waits for a free worker.", True),
        (
            replace(MERGE_DUE, merge_message="Adding up"),
            _roster("ocr"),
            None,
            "Adding up waits for a free worker.",
            True,
        ),
        (
            replace(MERGE_DUE, merge_message="Adding up"),
            _roster("other"),
            None,
            "Adding up waits: no worker listens to queue ocr.",
            False,
        ),
        (replace(IDLE, started=False), _roster("ocr"), None, "It waits for a free worker.", True),
        (replace(IDLE, queue=None), _roster("ocr"), None, "It waits for a free worker.", True),
        (IDLE, NOBODY_KNOWN, TWO_BEFORE, "2 documents, 900 pages before it.", False),
    ],
)
def test_what_is_known_of_workers_and_of_the_queue_is_said(
    standing: Standing, roster: Roster, before: Before | None, reason: str, moves: bool
) -> None:
    """Whether it goes on by itself is told apart from what nobody will begin."""
    waiting = _waiting(standing, roster, before)
    assert waiting is not None
    assert (waiting.reason, waiting.moves) == (reason, moves)
    queued = "before it" in reason or "free worker" in reason
    assert waiting.jobs_before == ((before or Before()).jobs if queued else None)


def test_the_moment_between_two_chunks_is_no_waiting() -> None:
    """The next start is recorded a moment later."""
    idle = replace(IDLE, changed_at=1000.0 - SILENCE_SECONDS / 2)
    assert _waiting(idle) is None
    waiting = _waiting(replace(idle, now=idle.now + SILENCE_SECONDS))
    assert waiting is not None
    assert waiting.since == moment(idle.changed_at)


def test_a_job_that_takes_turns_with_others_is_not_called_waiting_between_two_turns() -> None:
    """Once begun, it has to stand for longer; one that never began waits from the beginning, and so does a merge."""
    turn = replace(IDLE, changed_at=1000.0 - TURN_SECONDS / 2, created_at=1000.0 - TURN_SECONDS / 2)
    assert _waiting(turn, _roster("ocr"), TWO_BEFORE) is None
    assert _waiting(replace(turn, now=turn.now + TURN_SECONDS), _roster("ocr"), TWO_BEFORE) is not None
    for waits in (replace(turn, started=False), replace(turn, settled=True)):
        assert _waiting(waits, _roster("ocr"), TWO_BEFORE) is not None


def test_workers_that_are_gone_are_gone_since_they_were_seen() -> None:
    """Not since the job was created."""
    waiting = _waiting(replace(IDLE, started=False, created_at=990.0), _roster("ocr", seen_at=900.0))
    assert waiting is not None
    assert waiting.since == moment(900.0)


def test_a_backlog_counts_what_was_created_before_in_the_same_queue() -> None:
    """A job whose queue is not known may be in any; different units are not added up."""
    backlog = Backlog(
        [
            QueuedJob(created_at=1.0, queue="a", pages_left=300, unit="pages"),
            QueuedJob(created_at=2.0, queue="b", pages_left=50, unit="pages"),
            QueuedJob(created_at=3.0, queue=None, pages_left=7, unit="pages"),
            QueuedJob(created_at=4.0, queue="a", pages_left=600, unit="pages"),
            QueuedJob(created_at=4.5, queue="c", pages_left=1, unit="rows"),
        ]
    )
    assert backlog.before("a", 5.0, unit="pages") == Before(jobs=3, pages=907)
    assert backlog.before("a", 4.0, unit="pages") == Before(jobs=2, pages=307)
    assert backlog.before("a", 1.0, unit="pages") == Before()
    assert backlog.before(None, 5.0, unit="pages") == Before(jobs=5, pages=None)
    assert backlog.before("c", 5.0, unit="pages") == Before(jobs=2, pages=None)
    assert backlog.before("nobody's", 3.0, unit="pages") == Before()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.integers(0, 50)), max_size=40), st.integers(1, 50))
def test_the_bar_of_work_never_goes_back(steps: list[tuple[bool, int, int]], total: int) -> None:
    """Whatever grows: pages, the merge's pages, the stage. 100 is for the end alone."""
    merging, done, merged, shown = False, 0, 0, 0.0
    for starts_merge, pages, of_merge in steps:
        if not merging:
            done = min(total, max(done, pages))
        merging = merging or starts_merge
        merged = max(merged, of_merge) if merging else 0
        percent = work_pct(ended_well=False, merging=merging, done=done / total, merged=merged / max(1, done))
        assert shown <= percent < 100
        shown = percent
    assert work_pct(ended_well=True, merging=True, done=done / total, merged=0) == 100
