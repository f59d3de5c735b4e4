"""Waiting, told apart from working: while nothing of a job moves, no finish time is shown, and the reason is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: From how long a silence on nothing moves: a moment without a chunk at work is the time between two chunks. Seconds.
SILENCE_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why nothing of a job moves.

    :ivar reason: a sentence for people.
    :ivar since: seconds since the epoch, on the database's clock.
    :ivar jobs_before: active jobs that were created before it; None where that is not what it waits for.
    """

    reason: str
    since: float
    jobs_before: int | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a job stands that is not over. Times are seconds since the epoch.

    :ivar at_work: chunks whose worker is alive.
    :ivar silent: chunks whose worker has given no sign of life for a lease.
    :ivar merging: whether the merge has begun, and ``body_alive`` whether its worker gives signs of life.
    :ivar changed_at: when the job's row changed last.
    """

    now: float
    created_at: float
    changed_at: float
    started: bool
    at_work: int
    silent: int
    settled: bool
    merging: bool
    body_alive: bool


def reason_of(standing: Standing) -> str | None:
    """The sentence that fits, without regard to how long it has been so; None where something is at work."""
    if standing.merging:
        return None if standing.body_alive else "The merge's worker gives no sign of life; it will be started again."
    if standing.at_work:
        return None
    if standing.settled:
        return "The merge waits for a free worker."
    if standing.silent:
        return "No worker gives a sign of life; what was at work will be started again."
    return "No worker is at work on it." if standing.started else "No worker has started it yet."


def waiting_of(standing: Standing) -> Waiting | None:
    """What a job waits for; None while it is at work, or was a moment ago."""
    reason = reason_of(standing)
    since = standing.changed_at if standing.started else standing.created_at
    if reason is None or standing.now - since < SILENCE_SECONDS:
        return None
    return Waiting(reason=reason, since=since)


#: How much of a job's work its merge is taken to be, in the bar of work.
MERGE_SHARE = 0.03


def work_pct(*, ended_well: bool, merging: bool, pages_done: int, pages_total: int, merged: int) -> float:
    """How much of a job's work is done, in percent, to a tenth: pages of chunks at work count, and the merge does.

    It never goes back within a run, since the counts that it is made of do not, and is 100 only at the end.

    :param merged: pages that the merge has done.
    """
    if ended_well:
        return 100.0
    read = 1.0 if merging else pages_done / pages_total if pages_total else 0.0
    merge = min(1.0, merged / pages_done) if merging and pages_done else 0.0
    share = (1 - MERGE_SHARE) * min(1.0, read) + MERGE_SHARE * merge
    return min(99.9, int(share * 1000) / 10)


def to_dict(waiting: Waiting | None, iso: Any) -> dict[str, Any] | None:
    """As on the wire."""
    if waiting is None:
        return None
    return {"reason": waiting.reason, "since": iso(waiting.since), "jobs_before": waiting.jobs_before}
