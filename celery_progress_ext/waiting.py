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


#: How much of a job's work its merge is taken to be, in the bar of work, where nothing is known of its kind.
MERGE_SHARE = 0.03


def work_pct(
    *,
    ended_well: bool,
    merging: bool,
    done: float,
    merged: float,
    merge_share: float | None = None,
    floor: float = 0.0,
) -> float:
    """How much of a job's work is done, in percent, to a tenth: chunks at work count, and the merge does.

    It never goes back within a run, since the shares that it is made of do not, and is 100 only at the end.

    :param done: which part of the chunks' cost is done, 0 to 1.
    :param merged: which part of the merge is, 0 to 1.
    :param merge_share: which part of the whole work the merge is taken to be, 0 to 1.
    :param floor: what was shown before the merge was begun again.
    """
    if ended_well:
        return 100.0
    share = MERGE_SHARE if merge_share is None else merge_share
    work = (1 - share) * (1.0 if merging else min(1.0, done)) + share * (min(1.0, merged) if merging else 0.0)
    return min(99.9, max(floor, int(work * 1000 + 1e-6) / 10))


def to_dict(waiting: Waiting | None, iso: Any) -> dict[str, Any] | None:
    """As on the wire."""
    if waiting is None:
        return None
    return {"reason": waiting.reason, "since": iso(waiting.since), "jobs_before": waiting.jobs_before}
