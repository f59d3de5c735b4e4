"""Waiting, told apart from working: what a job waits for while nothing of it moves, in a sentence for a person."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery_progress_ext.roster import Roster
from celery_progress_ext.wording import counted, duration, moment

#: From how long a silence on nothing moves: a moment without a chunk at work is the time between two chunks. Seconds.
SILENCE_SECONDS = 3.0
#: The same for a job that was begun and takes turns with others: it moves again after a chunk or two of theirs.
TURN_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why nothing of a job moves.

    :ivar reason: a sentence for people.
    :ivar since: on the database's clock, in UTC.
    :ivar jobs_before: active jobs whose work is before it in its queue; None where that is not what it waits for.
    :ivar pages_before: what is left of them, in the job's unit; None where that is not known.
    :ivar moves: whether its queue moves: its turn comes by itself. Where it does not, no finish can be foretold.
    """

    reason: str
    since: datetime
    jobs_before: int | None = None
    pages_before: int | None = None
    moves: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedJob:
    """An active job with chunks that wait; ``queue`` is None where it is not known."""

    created_at: float
    queue: str | None
    pages_left: int
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """Work in front of something in a queue: jobs, and what is left of them where all count the same unit."""

    jobs: int = 0
    pages: int | None = None


class Backlog:
    """The jobs that wait, by queue; a question costs a search in a sorted list."""

    def __init__(self, jobs: Iterable[QueuedJob] = ()) -> None:
        by_queue: dict[str | None, list[QueuedJob]] = defaultdict(list)
        for job in jobs:
            by_queue[job.queue].append(job)
        self._queues = {queue: _Line(found) for queue, found in by_queue.items()}

    def before(self, queue: str | None, moment: float, *, unit: str) -> Before:
        """What was created before ``moment`` and goes to the same queue; a job of an unknown queue counts for each."""
        lines = self._queues.values() if queue is None else [self._queues.get(each) for each in (queue, None)]
        found = [line.before(moment) for line in lines if line is not None]
        jobs = sum(jobs for jobs, _pages in found)
        units = {each for line in lines if line is not None and line.before(moment)[0] for each in line.units}
        return Before(jobs=jobs, pages=sum(pages for _jobs, pages in found) if units == {unit} else None)


class _Line:
    """One queue: the moments at which its jobs were created, and the sums of what is left up to each."""

    def __init__(self, jobs: list[QueuedJob]) -> None:
        jobs.sort(key=lambda job: job.created_at)
        self._moments = [job.created_at for job in jobs]
        self._pages = [0]
        for job in jobs:
            self._pages.append(self._pages[-1] + job.pages_left)
        self.units = {job.unit for job in jobs}

    def before(self, moment: float) -> tuple[int, int]:
        count = bisect_left(self._moments, moment)
        return count, self._pages[count]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a job stands that is not over. Times are seconds since the epoch.

    :ivar at_work: chunks whose worker is alive.
    :ivar silent: chunks whose worker has given no sign of life for a lease.
    :ivar stuck_since: the last progress of any chunk at work, where none has made any for ``progress_stall_seconds``.
    :ivar merging: whether the merge has begun, and ``body_alive`` whether its worker gives signs of life.
    :ivar changed_at: when the job's row changed last.
    :ivar queue: where what is due next goes to, the chunks or the merge; None where it is not known.
    :ivar merge_message: what the merge is called; None for "the merge".
    :ivar no_beat: whether no tick was seen for some ticks, so that nothing that was lost is started again.
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
    stuck_since: float | None = None
    queue: str | None = None
    unit: str = "pages"
    merge_message: str | None = None
    no_beat: bool = False

    @property
    def works(self) -> bool:
        """Whether something of it is at work and moves."""
        if self.merging:
            return self.body_alive
        return bool(self.at_work) and self.stuck_since is None

    @property
    def since(self) -> float:
        """Since when nothing of it moves."""
        if self.at_work and self.stuck_since is not None:
            return self.stuck_since
        return self.changed_at if self.started else self.created_at


@dataclass(frozen=True, kw_only=True)
class _Circumstances:
    """All that a reason is made of."""

    job: Standing
    roster: Roster
    before: Before = field(default_factory=Before)

    @property
    def nobody(self) -> bool:
        return self.roster.known and not self.roster.alive

    @property
    def unheard(self) -> bool:
        return self.roster.known and self.job.queue is not None and not self.roster.listens(self.job.queue)

    @property
    def unanswered(self) -> str:
        return _coarse(self.job.now - (self.roster.last_seen_at or self.job.now))

    @property
    def jobs_before(self) -> str:
        pages = "" if self.before.pages is None else f", {self.before.pages:,} {self.job.unit}"
        # What has pages is a document.
        return f"{counted(self.before.jobs, 'document' if self.job.unit == 'pages' else 'job')}{pages} before it"

    @property
    def merge_waits(self) -> str:
        return f"{self.job.merge_message or 'The merge'} waits"

    @property
    def merge_is_silent(self) -> str:
        said = self.job.merge_message
        worker = "The merge's worker" if said is None else f"{said}: its worker"
        return f"{worker} gives no sign of life; {healing('it', no_beat=self.job.no_beat)}."


def healing(what: str, *, no_beat: bool) -> str:
    """What becomes of something whose worker is silent: the tick has it started again, where there is one."""
    if no_beat:
        return f"no beat runs, which would have {what} started again: start one (celery -A APP beat)"
    return f"{what} will be started again"


def _coarse(seconds: float) -> str:
    """A duration that does not count every second: what is said is to change when there is news."""
    return duration(seconds - seconds % 10 if 10 <= seconds < 90 else seconds)


#: The first cause that applies is the reason: when, the sentence, and whether it waits for its turn in a queue.
_CAUSES: tuple[tuple[Callable[[_Circumstances], bool], Callable[[_Circumstances], str], bool], ...] = (
    (lambda its: its.nobody, lambda its: f"No worker has answered for {its.unanswered}.", False),
    (
        lambda its: its.job.merging,
        lambda its: its.merge_is_silent,
        False,
    ),
    (
        lambda its: bool(its.job.at_work),
        lambda its: f"Nothing has moved for {_coarse(its.job.now - its.job.since)}: what is at work is stuck.",
        False,
    ),
    (
        lambda its: its.job.settled and its.unheard,
        lambda its: f"{its.merge_waits}: no worker listens to queue {its.job.queue}.",
        False,
    ),
    (
        lambda its: its.job.settled and bool(its.before.jobs),
        lambda its: f"{its.merge_waits}: {its.jobs_before}.",
        True,
    ),
    (lambda its: its.job.settled, lambda its: f"{its.merge_waits} for a free worker.", True),
    (lambda its: its.unheard, lambda its: f"No worker listens to queue {its.job.queue}.", False),
    (
        lambda its: bool(its.job.silent),
        lambda its: f"No worker gives a sign of life; {healing('what was at work', no_beat=its.job.no_beat)}.",
        False,
    ),
    (lambda its: bool(its.before.jobs), lambda its: f"{its.jobs_before}.", True),
    (lambda its: its.roster.known, lambda its: "It waits for a free worker.", True),
    (lambda its: its.job.started, lambda its: "No worker is at work on it.", False),
    (lambda its: True, lambda its: "No worker has started it yet.", False),
)


def waiting_of(standing: Standing, roster: Roster, before: Before) -> Waiting | None:
    """What a job waits for; None while it is at work, or was a moment ago.

    A silence holds from ``SILENCE_SECONDS`` on, from ``TURN_SECONDS`` where a job that was begun only waits for its
    turn, and from ``progress_stall_seconds`` where chunks are at work: neither the time between two chunks nor a slow
    page is called waiting.
    """
    if standing.works:
        return None
    its = _Circumstances(job=standing, roster=roster, before=before)
    said, queued = next((say, queued) for applies, say, queued in _CAUSES if applies(its))
    # Where no worker is known, nobody knows whether its turn will come.
    moves = queued and roster.known
    takes_turns = moves and standing.started and not standing.settled
    silence = TURN_SECONDS if takes_turns else SILENCE_SECONDS
    if standing.at_work and not standing.merging:
        silence = 0.0  # what is stuck has been so for `progress_stall_seconds`
    if standing.now - standing.since < silence:
        return None
    # Workers that are gone went before the job was even asked for: that is since when nothing moves.
    since = min(standing.since, roster.last_seen_at or standing.since) if its.nobody else standing.since
    return Waiting(
        reason=said(its),
        since=moment(since),
        jobs_before=before.jobs if queued else None,
        pages_before=before.pages if queued else None,
        moves=moves,
    )


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
    return {
        "reason": waiting.reason,
        "since": iso(waiting.since),
        "jobs_before": waiting.jobs_before,
        "pages_before": waiting.pages_before,
    }


def from_dict(record: Mapping[str, Any] | None) -> Waiting | None:
    """The reverse of ``to_dict``; whether its queue moves is not on the wire."""
    if record is None:
        return None
    return Waiting(
        reason=record["reason"],
        since=datetime.fromisoformat(record["since"]),
        jobs_before=record["jobs_before"],
        pages_before=record["pages_before"],
    )
