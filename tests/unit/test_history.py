"""What a history says of a job, and what it cannot say."""

from __future__ import annotations

import pytest

from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.history import NAMED_LIMIT, Event, EventType, HistoryReplay
from celery_progress_ext.jobs import JobStatus


def told(*events: str, total: int = 2, has_body: bool = True) -> HistoryReplay:
    """The account of events as `type`, `type chunk` or `type chunk attempt` (`type - attempt` of a merge); each has the
    next version.
    """
    account = HistoryReplay(total=total, has_body=has_body)
    for version, text in enumerate(("job_created", *events), 1):
        type, chunk, attempt = [*text.split(), "-", "-"][:3]
        account.add(
            Event(
                version=version,
                type=type,
                chunk_index=None if chunk == "-" else int(chunk),
                attempt=None if attempt == "-" else int(attempt),
            )
        )
    return account


DONE = ("chunk_started 0 1", "chunk_completed 0 1", "chunk_completed 1 1", "merge_started - 1", "job_completed - 1")


def test_a_life_from_creation_to_the_end() -> None:
    """Every chunk is completed, in attempt 1, and nothing contradicts."""
    account = told(*DONE)
    assert account.contradictions == []
    assert account.statuses == {JobStatus.COMPLETED}
    assert account.counts().completed == 2
    assert account.chunk(1).attempt == 1
    assert account.version == 6


def test_chunks_that_no_event_names_are_pending() -> None:
    """A history of 10,000 chunks does not begin with 10,000 events."""
    account = told(total=10_000)
    assert account.counts().pending == 10_000
    assert account.statuses == {JobStatus.PENDING}


def test_a_job_that_ends_early_sends_its_running_chunks_back() -> None:
    """They are pending, the others stay as they were."""
    account = told("chunk_started 0 1", "chunk_failed 1 0", "job_cancelled")
    assert account.chunk(0).status is ChunkStatus.PENDING
    assert account.chunk(1).status is ChunkStatus.FAILED
    assert account.contradictions == []


def test_a_retry_sends_back_what_failed() -> None:
    """And the merge may come again, under a higher attempt."""
    account = told(
        "chunk_failed 0 0", "chunk_completed 1 1", "merge_started - 1", "job_partial - 1", "job_retried",
        "chunk_completed 0 1", "merge_started - 3", "job_completed - 3",
    )  # fmt: skip
    assert account.contradictions == []
    assert account.statuses == {JobStatus.COMPLETED}


def test_a_status_set_by_hand_may_be_any_that_was_legal() -> None:
    """The event does not carry it; the next event of a chunk says more."""
    account = told("status_updated")
    assert account.statuses == {JobStatus.PROCESSING, JobStatus.FAILED, JobStatus.CANCELLED}
    assert told("status_updated", "chunk_started 0 1").statuses == {JobStatus.PROCESSING}


def test_an_event_of_a_newer_version_says_nothing_but_its_version() -> None:
    """Two versions of the library may share a database while one replaces the other."""
    account = told("chunk_started 0 1", "chunk_painted_blue 0 7")
    assert (account.contradictions, account.chunk(0).status) == ([], ChunkStatus.PROCESSING)
    assert account.version == 3


@pytest.mark.parametrize(
    ("events", "rule"),
    [
        (("job_created",), "created once"),
        (("chunk_completed 0 1", "chunk_completed 0 1"), "that the chunk was completed"),
        (("chunk_completed 0 1", "chunk_failed 0 1"), "that the chunk was completed"),
        (("chunk_failed 0 0", "chunk_redispatched 0 0"), "that the chunk was failed"),
        (("chunk_started 0 2",), "attempt 1, not 2"),
        (("chunk_started 0 1", "chunk_failed 0 2"), "attempt 1, not 2"),
        (("chunk_completed 2 1",), "one of 2 chunks"),
        (("chunk_completed 0 1", "merge_started - 1"), "no merge before"),
        (("chunk_completed 0 1", "body_dispatched"), "no merge before"),
        ((*DONE[:4], "chunk_failed 1 1"), "once the merge has begun"),
        ((*DONE[:4], "merge_started - 1"), "an attempt above 1"),
        ((*DONE, "job_completed - 1"), "of a job that is COMPLETED"),
        ((*DONE, "job_cancelled"), "of a job that is COMPLETED"),
        ((*DONE, "job_retried"), "of a job that is COMPLETED"),
        ((*DONE, "status_updated"), "a job that is COMPLETED"),
        ((*DONE[:4], "job_completed - 2"), "by the newest merge"),
        ((*DONE[:3], "job_completed - 1"), "by the newest merge"),
        (("chunk_failed 0 0", "chunk_completed 1 1", "merge_started - 1", "job_completed - 1"), "1 chunks failed"),
        (("job_cancelled", "chunk_completed 0 1"), "of a job that is CANCELLED"),
        (("job_retried",), "of a job that is PENDING"),
    ],
)
def test_what_can_not_have_happened_is_named_with_the_rule(events: tuple[str, ...], rule: str) -> None:
    """Once: the account goes on as if it had happened."""
    account = told(*events)
    [contradiction] = account.contradictions
    assert rule in contradiction.rule
    assert contradiction.event.version == len(events) + 1


def test_a_job_without_a_body_ends_without_a_merge() -> None:
    """With its last chunk, or by hand; never before, and there is nothing to merge."""
    ended = told("chunk_completed 0 1", "chunk_failed 1 0", "job_partial", has_body=False)
    assert (ended.contradictions, ended.statuses) == ([], {JobStatus.PARTIAL})
    for events, rule in (
        (("chunk_completed 0 1", "job_completed"), "no end before every chunk"),
        (("chunk_completed 0 1", "chunk_failed 1 0", "job_completed"), "1 chunks failed"),
        ((*DONE[:4],), "no merge of a job without a body"),
    ):
        [contradiction] = told(*events, has_body=False).contradictions
        assert rule in contradiction.rule


def test_versions_only_grow() -> None:
    """Every change makes one, and one event at most."""
    account = told("chunk_started 0 1")
    account.add(Event(version=2, type=EventType.CHUNK_STARTED, chunk_index=1, attempt=1))
    [contradiction] = account.contradictions
    assert (contradiction.rule, str(contradiction.event)) == ("a version above 2", "chunk_started of chunk 2")


def test_a_history_without_its_beginning_is_no_history() -> None:
    """Whoever deleted events is told so."""
    account = HistoryReplay(total=1)
    account.add(Event(version=2, type=EventType.CHUNK_STARTED, chunk_index=0, attempt=1))
    assert "not created" in account.contradictions[0].rule


def test_a_broken_history_is_named_in_part_and_counted_whole() -> None:
    """10,000 contradictions need no more memory than ten."""
    account = told(*["chunk_completed 0 1"] * 50)
    assert (len(account.contradictions), account.contradicted) == (NAMED_LIMIT, 49)
