"""What a job's history says: its events, in the order of their versions, folded into what its rows should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from celery_progress_ext.chunks import CHUNK_TRANSITIONS, ChunkProgress, ChunkStatus
from celery_progress_ext.jobs import ACTIVE, JOB_TRANSITIONS, MANUAL_TRANSITIONS, RETRYABLE, JobStatus


class EventType(StrEnum):
    """What can happen. The names are the same in the log."""

    JOB_CREATED = "job_created"
    CHUNK_STARTED = "chunk_started"
    CHUNK_COMPLETED = "chunk_completed"
    CHUNK_FAILED = "chunk_failed"
    CHUNK_RETRYING = "chunk_retrying"
    CHUNK_REDISPATCHED = "chunk_redispatched"
    CHUNK_REOPENED = "chunk_reopened"
    BODY_DISPATCHED = "body_dispatched"
    MERGE_STARTED = "merge_started"
    STATUS_UPDATED = "status_updated"
    JOB_COMPLETED = "job_completed"
    JOB_PARTIAL = "job_partial"
    JOB_FAILED = "job_failed"
    JOB_CANCELLED = "job_cancelled"
    JOB_RETRIED = "job_retried"
    #: The database came back without its last writes: the version goes on above the one that readers were given.
    VERSION_RAISED = "version_raised"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One row of a job's history, with what the replay needs of it. ``type`` may be one of a newer version of the
    library.
    """

    version: int
    type: str
    chunk_index: int | None = None
    attempt: int | None = None

    def __str__(self) -> str:
        chunk = "" if self.chunk_index is None else f" of chunk {self.chunk_index + 1}"
        return f"{self.type}{chunk}"


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """An event that cannot have happened after those before it, and the rule that it breaks."""

    event: Event
    rule: str


@dataclass(frozen=True, slots=True)
class ReplayedChunk:
    """A chunk as the history has it; chunks that it does not name are pending, in attempt 0."""

    status: ChunkStatus = ChunkStatus.PENDING
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class _Step:
    """What an event makes of a chunk or job, and from where it may."""

    to: ChunkStatus
    since: frozenset[ChunkStatus]


_RELEASED = _Step(ChunkStatus.PENDING, frozenset({ChunkStatus.PENDING, ChunkStatus.PROCESSING}))
_CHUNK_STEPS: Mapping[str, _Step] = MappingProxyType(
    {
        EventType.CHUNK_STARTED: _Step(ChunkStatus.PROCESSING, CHUNK_TRANSITIONS[ChunkStatus.PROCESSING]),
        EventType.CHUNK_COMPLETED: _Step(ChunkStatus.COMPLETED, CHUNK_TRANSITIONS[ChunkStatus.COMPLETED]),
        EventType.CHUNK_FAILED: _Step(ChunkStatus.FAILED, CHUNK_TRANSITIONS[ChunkStatus.FAILED]),
        # A failed chunk goes back to the queue only with the whole job, by JOB_RETRIED.
        EventType.CHUNK_RETRYING: _RELEASED,
        EventType.CHUNK_REDISPATCHED: _RELEASED,
        # With a retry of the job: its pages were not all read.
        EventType.CHUNK_REOPENED: _Step(ChunkStatus.PENDING, frozenset({ChunkStatus.COMPLETED})),
    }
)
#: What an event makes of the job. Every event of a chunk makes it PROCESSING.
_JOB_STEPS: Mapping[str, JobStatus] = MappingProxyType(
    {
        **dict.fromkeys(_CHUNK_STEPS, JobStatus.PROCESSING),
        EventType.MERGE_STARTED: JobStatus.PROCESSING,
        EventType.BODY_DISPATCHED: JobStatus.PROCESSING,
        EventType.JOB_COMPLETED: JobStatus.COMPLETED,
        EventType.JOB_PARTIAL: JobStatus.PARTIAL,
        EventType.JOB_FAILED: JobStatus.FAILED,
        EventType.JOB_CANCELLED: JobStatus.CANCELLED,
        EventType.JOB_RETRIED: JobStatus.PROCESSING,
    }
)
#: Chunks that an event takes along: what ran when a job ended early, and what had failed when it was retried.
_TAKEN_ALONG: Mapping[str, frozenset[ChunkStatus]] = MappingProxyType(
    {
        EventType.JOB_FAILED: frozenset({ChunkStatus.PROCESSING}),
        EventType.JOB_CANCELLED: frozenset({ChunkStatus.PROCESSING}),
        # A job whose status was set by hand may have ended with a chunk at work.
        EventType.JOB_RETRIED: frozenset({ChunkStatus.FAILED, ChunkStatus.PROCESSING}),
    }
)
_MERGED = frozenset({EventType.JOB_COMPLETED, EventType.JOB_PARTIAL})
#: Contradictions named; the rest is counted.
NAMED_LIMIT = 10
_UNTOUCHED = ReplayedChunk()


class HistoryReplay:
    """A job, replayed from its history. Give it every event with :meth:`add`, in the order of their versions.

    It holds one entry per chunk that an event named. After an event that contradicts those before it, the account goes
    on as if that event were true, so that one fault is reported once.

    :param total: how many chunks the job has.
    :param has_body: whether a merge ends it; else it ends once every chunk is completed or failed.
    """

    def __init__(self, *, total: int, has_body: bool = True) -> None:
        self._total = total
        self._has_body = has_body
        self._chunks: dict[int, ReplayedChunk] = {}
        self._counts: Counter[ChunkStatus] = Counter()
        self._merging = False
        #: The version of the newest event; 0 before the first.
        self.version = 0
        #: The job is in one of these; several only where the status was last set by hand, which no event carries.
        self.statuses: frozenset[JobStatus] = frozenset()
        #: The attempt of the newest merge.
        self.body_attempt = 0
        #: Whether somebody set the job's status by hand, and with it perhaps a percent.
        self.by_hand = False
        #: The first ``NAMED_LIMIT`` contradictions, and how many there are.
        self.contradictions: list[Contradiction] = []
        self.contradicted = 0

    def chunk(self, index: int) -> ReplayedChunk:
        """One chunk's status and attempt."""
        return self._chunks.get(index, _UNTOUCHED)

    def counts(self) -> ChunkProgress:
        """How many chunks stand where."""
        named = {status: self._counts[status] for status in ChunkStatus if status is not ChunkStatus.PENDING}
        return ChunkProgress(
            total=self._total,
            pending=self._total - sum(named.values()),
            processing=named[ChunkStatus.PROCESSING],
            completed=named[ChunkStatus.COMPLETED],
            failed=named[ChunkStatus.FAILED],
        )

    def add(self, event: Event) -> None:
        """Take the next event into account. A type that is not known (a newer version's) says nothing but a version."""
        if event.version <= self.version:
            self._contradict(event, f"a version above {self.version}")
        self.version = max(self.version, event.version)
        if event.type == EventType.JOB_CREATED:
            if self.statuses:
                self._contradict(event, "that a job is created once")
            self.statuses = self.statuses or frozenset({JobStatus.PENDING})
        elif event.type == EventType.STATUS_UPDATED:
            self._set_by_hand(event)
        elif event.type in _JOB_STEPS:
            # Before the status and the chunks move: what an event may do depends on what was before it.
            rule = self._broken_rule(event)
            if rule is not None:
                self._contradict(event, rule)
            self._apply(event)

    def _set_by_hand(self, event: Event) -> None:
        self.by_hand = True
        reachable = frozenset(status for status, since in MANUAL_TRANSITIONS.items() if since & self.statuses)
        if not reachable:
            self._contradict(event, f"no change of a job that is {self.status_in_words()}")
        self.statuses = reachable or self.statuses

    def status_in_words(self) -> str:
        """The job's status in words; several where the history leaves it open."""
        return " or ".join(status for status in JobStatus if status in self.statuses) or "not created"

    def _broken_rule(self, event: Event) -> str | None:
        """The rule that an event breaks, or None."""
        since = JOB_TRANSITIONS[_JOB_STEPS[event.type]]
        since &= RETRYABLE if event.type == EventType.JOB_RETRIED else ACTIVE
        if not since & self.statuses:
            return f"no {event.type} of a job that is {self.status_in_words()}"
        if event.type in _CHUNK_STEPS:
            return self._broken_chunk_rule(event)
        if event.type in (EventType.MERGE_STARTED, EventType.BODY_DISPATCHED) and not self._settled:
            return "no merge before every chunk is completed or failed"
        if event.type == EventType.MERGE_STARTED and not self._has_body:
            return "no merge of a job without a body"
        if event.type == EventType.MERGE_STARTED and (event.attempt or 0) <= self.body_attempt:
            return f"a merge with an attempt above {self.body_attempt}"
        if event.type in _MERGED:
            return self._broken_end_rule(event)
        return None

    def _broken_chunk_rule(self, event: Event) -> str | None:
        index, attempt = event.chunk_index, event.attempt
        if index is None or not 0 <= index < self._total:
            return f"one of {self._total} chunks"
        if self._merging:
            return "no change of a chunk once the merge has begun"
        chunk = self.chunk(index)
        if chunk.status not in _CHUNK_STEPS[event.type].since:
            return f"that the chunk was {chunk.status}"
        expected = _attempt_after(event, chunk)
        return None if attempt == expected else f"attempt {expected}, not {attempt}"

    def _broken_end_rule(self, event: Event) -> str | None:
        if not self._has_body and not self._settled:
            return "no end before every chunk is completed or failed"
        if self._has_body and (not self._merging or event.attempt != self.body_attempt):
            return "an end only by the newest merge of the run"
        failed = self._counts[ChunkStatus.FAILED]
        # One without a failed chunk may be PARTIAL all the same: pages that were not wholly read are no events.
        if failed and event.type == EventType.JOB_COMPLETED:
            return f"{EventType.JOB_PARTIAL}: {failed} chunks failed"
        return None

    @property
    def _settled(self) -> bool:
        return self._counts[ChunkStatus.COMPLETED] + self._counts[ChunkStatus.FAILED] == self._total

    def _apply(self, event: Event) -> None:
        # A chunk that was never sent is sent again before anything of its job was started, too.
        waits = event.type == EventType.CHUNK_REDISPATCHED and JobStatus.PENDING in self.statuses
        self.statuses = frozenset({_JOB_STEPS[event.type], *([JobStatus.PENDING] if waits else [])})
        if event.type in _CHUNK_STEPS:
            if event.chunk_index is not None:
                chunk = self.chunk(event.chunk_index)
                attempt = chunk.attempt if event.attempt is None else event.attempt
                self._set(event.chunk_index, _CHUNK_STEPS[event.type].to, attempt)
            return
        if event.type == EventType.MERGE_STARTED:
            self._merging, self.body_attempt = True, max(self.body_attempt, event.attempt or 0)
        elif event.type == EventType.JOB_RETRIED:
            self._merging = False
        taken = _TAKEN_ALONG.get(event.type, frozenset())
        if any(self._counts[status] for status in taken):
            for index in [index for index, chunk in self._chunks.items() if chunk.status in taken]:
                self._set(index, ChunkStatus.PENDING, self.chunk(index).attempt)

    def _set(self, index: int, status: ChunkStatus, attempt: int) -> None:
        if index in self._chunks:
            self._counts[self._chunks[index].status] -= 1
        self._chunks[index] = ReplayedChunk(status, attempt)
        self._counts[status] += 1

    def _contradict(self, event: Event, rule: str) -> None:
        self.contradicted += 1
        if self.contradicted <= NAMED_LIMIT:
            self.contradictions.append(Contradiction(event=event, rule=rule))


def _attempt_after(event: Event, chunk: ReplayedChunk) -> int:
    """The attempt that an event of a chunk carries: a start makes a new one, a success without a start makes it 1."""
    if event.type == EventType.CHUNK_STARTED:
        return chunk.attempt + 1
    return max(chunk.attempt, 1) if event.type == EventType.CHUNK_COMPLETED else chunk.attempt
