"""Jobs whose every moment is known, recorded or simulated, and the rows that the product would have of them.

What the product knows is less than what is known here: a start is recorded when a chunk has run for ``START_SECONDS``,
pages are written at most once in ``PAGES_SECONDS`` (the first one at once), and a chunk that a killed worker had looks
alive until its lease is over.
"""

from __future__ import annotations

import bisect
import heapq
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.pace import PAGES_SECONDS, Pace
from celery_progress_ext.stages import StageName
from celery_progress_ext.storage.rows import ChunkRow, JobRow
from celery_progress_ext.storage.snapshots import SLOT_SECONDS
from celery_progress_ext.worker.heartbeat import START_SECONDS

#: The lease of the default settings. Seconds.
LEASE = 30.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a chunk, in seconds since the job was created; it was killed where ``end`` is None."""

    start: float
    page_ends: Sequence[float]
    end: float | None


@dataclass(frozen=True, kw_only=True)
class TimedChunk:
    """A chunk and its attempts, the last of which ended it."""

    pages: int
    attempts: Sequence[Attempt]
    cost: float | None = None

    @property
    def start(self) -> float:
        """When its first attempt started."""
        return self.attempts[0].start

    @property
    def end(self) -> float:
        """When its last attempt ended."""
        end = self.attempts[-1].end
        assert end is not None
        return end


@dataclass(frozen=True, kw_only=True)
class TimedJob:
    """A job from its first to its last second, its chunks in dispatch order. ``slots`` work on it."""

    name: str
    chunks: Sequence[TimedChunk]
    merge_start: float
    end: float
    slots: int

    def at_work(self, now: float) -> int:
        """How many of its chunks are worked on, as the product sees it: the most in the last ``SLOT_SECONDS``."""
        moments = {now, *(chunk.end - 1e-6 for chunk in self.chunks if now - SLOT_SECONDS < chunk.end <= now)}
        seen = max(
            sum(
                attempt.start + START_SECONDS <= moment < (attempt.end if attempt.end is not None else _silent(attempt))
                for chunk in self.chunks
                for attempt in chunk.attempts
            )
            for moment in moments
        )
        return seen or self.slots

    def without_costs(self) -> TimedJob:
        """The same, of which nobody foretold anything."""
        return replace(self, chunks=[replace(chunk, cost=None) for chunk in self.chunks])

    def chunk_ends(self, now: float) -> list[float]:
        """When chunks ended, as far as known at ``now``, in order."""
        return sorted(chunk.end for chunk in self.chunks if chunk.end <= now)

    def rows(self, now: float) -> tuple[JobRow, list[ChunkRow]]:
        """The rows at this moment."""
        rows = [_chunk_row(index, chunk, now) for index, chunk in enumerate(self.chunks)]
        done = [row for row in rows if row.status is ChunkStatus.COMPLETED]
        counts = {status: sum(row.status is status for row in rows) for status in ChunkStatus}
        merging, over = now >= self.merge_start, now >= self.end
        pace = Pace()
        for row in done:
            pace = pace.observe(row.pages, (row.finished_at or 0.0) - (row.started_at or 0.0))
        known: dict[str, Any] = {
            "id": self.name,
            "status": JobStatus.COMPLETED if over else JobStatus.PROCESSING,
            "stage_name": StageName.MERGE if merging else StageName.CHUNK_PROCESSING,
            "total_chunks": len(rows),
            "pending_chunks": counts[ChunkStatus.PENDING],
            "processing_chunks": counts[ChunkStatus.PROCESSING],
            "completed_chunks": counts[ChunkStatus.COMPLETED],
            "failed_chunks": 0,
            "pages_total": sum(row.pages for row in rows),
            "pages_done": sum(row.pages_done for row in rows),
            "pace_chunks": pace.chunks,
            "pace_pages": pace.pages,
            "pace_seconds": pace.seconds,
            "pace_sum_log": pace.sum_log,
            "pace_sum_log_sq": pace.sum_log_sq,
            "started_at": min((row.started_at for row in rows if row.started_at is not None), default=None),
            "merge_started_at": self.merge_start if merging else None,
            "finished_at": self.end if over else None,
            "cost_total": sum(row.expected_cost for row in rows),
            "cost_done": sum(row.expected_cost * row.pages_done / row.pages for row in rows),
            "now": now,
        }
        return JobRow(**{**_NOTHING_OF_A_JOB, **known}), rows


def _silent(attempt: Attempt) -> float:
    """When the lease of a killed attempt is over."""
    return (attempt.page_ends[-1] if attempt.page_ends else attempt.start) + LEASE


#: What a row has besides; a column that is not named here is null.
_NOTHING_OF_A_JOB: Mapping[str, Any] = {
    **{field.name: None for field in fields(JobRow)},
    **dict.fromkeys(("matter_id", "document_id", "stage", "body_task_id"), ""),
    **dict.fromkeys(("progress_pct", "body_attempt", "body_tries", "body_dispatches", "merge_pages_done"), 0),
    **dict.fromkeys(("reservations", "version", "created_at", "updated_at"), 0),
    "metadata": {},
    "unit": "pages",
    "on_chunk_failure": "partial",
    "run": 1,
    "chord_intact": True,
}
_NOTHING_OF_A_CHUNK: Mapping[str, Any] = {
    **{field.name: None for field in fields(ChunkRow)},
    "job_id": "",
    "page_start": 1,
    "tries": 0,
    "dispatches": 1,
    "task_id": "",
    "sent_at": 0.0,
}


def _chunk_row(index: int, chunk: TimedChunk, now: float) -> ChunkRow:
    begun = [attempt for attempt in chunk.attempts if attempt.start + START_SECONDS <= now]
    known: dict[str, Any] = {"id": str(index), "chunk_index": index, "page_end": chunk.pages, "cost": chunk.cost}
    if not begun:
        pending = {"status": ChunkStatus.PENDING, "attempt": 0, "pages_done": 0, "attempt_pages_done": 0}
        return ChunkRow(**{**_NOTHING_OF_A_CHUNK, **known, **pending})
    attempt = begun[-1]
    over = attempt.end is not None and attempt.end <= now
    done = _written(attempt, now) if not over else chunk.pages
    most = max(_written(each, now) for each in begun)
    last = attempt.page_ends[done - 1] if 0 < done <= len(attempt.page_ends) else attempt.start
    first = attempt.page_ends[0] if attempt.page_ends and done else None
    alive_until = now if attempt.end is not None else (attempt.page_ends[-1] if attempt.page_ends else attempt.start)
    known.update(
        status=ChunkStatus.COMPLETED if over else ChunkStatus.PROCESSING,
        attempt=len(begun),
        leased_until=None if over else alive_until + LEASE,
        started_at=attempt.start,
        progressed_at=last,
        finished_at=attempt.end if over else None,
        pages_done=chunk.pages if over else max(done, most),
        attempt_pages_done=done,
        first_at=first,
        first_steps=None if first is None else 1,
    )
    return ChunkRow(**{**_NOTHING_OF_A_CHUNK, **known})


def _written(attempt: Attempt, now: float) -> int:
    """How many pages the rows know of: the first at once, the others as they are when a second is over."""
    if not attempt.page_ends or attempt.page_ends[0] > now:
        return 0
    writes = int((now - attempt.page_ends[0]) / PAGES_SECONDS)
    return bisect.bisect_right(attempt.page_ends, attempt.page_ends[0] + writes * PAGES_SECONDS)


# --- Recorded ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A real job, and how it ran: alone, beside another job, with one worker, with a worker killed."""

    job: TimedJob
    document: str
    file: str
    mode: str
    circumstance: str


def recorded(path: Path, costs_of: Callable[[str, str, Sequence[int]], Sequence[float] | None]) -> Iterator[Recording]:
    """The jobs of a file that ``bench.record`` wrote, or one of its form, one JSON object a line.

    :param costs_of: what the product foretold, from a file's name, the mode and the chunks' sizes, where the recording
        does not say.
    """
    for line in path.read_text().splitlines():
        found = json.loads(line)
        if found["status"] not in ("COMPLETED", "PARTIAL"):
            continue
        sizes = [chunk["size"] for chunk in found["chunks"]]
        costs = found.get("costs") or costs_of(found["file"], found["mode"], sizes) or [None] * len(sizes)
        chunks = [
            TimedChunk(pages=chunk["size"], attempts=_attempts(chunk["attempts"]), cost=cost)
            for chunk, cost in zip(found["chunks"], costs, strict=True)
        ]
        yield Recording(
            job=TimedJob(
                name=found["file"],
                chunks=chunks,
                merge_start=found["merge_start"],
                end=found["end"],
                slots=found["workers"],
            ),
            document=found["file"].split("_")[0].removesuffix(".pdf"),
            file=found["file"],
            mode=found["mode"],
            circumstance=found["kind"],
        )


def _attempts(found: Sequence[Mapping[str, Any]]) -> list[Attempt]:
    attempts = [
        Attempt(
            start=attempt["start"],
            page_ends=attempt["pages"],
            end=attempt["end"] if attempt["status"] == "completed" else None,
        )
        for attempt in found
    ]
    return attempts


# --- Simulated --------------------------------------------------------------------------------------------------------

SLOTS = 4
#: ln of a page's time: of its own; shared with its neighbours, and how much of that the next page has, too.
PAGE_NOISE, SHARED_NOISE, SHARED_STEP = 0.35, 0.3, 0.96
#: By how much ln of a page's time drifts from the first to the last page.
DRIFT = 0.4
#: ln of jobs' levels, and of what a merge takes beyond its share.
LEVEL_SPREAD, MERGE_NOISE = 0.35, 0.15
#: ln of how well a page's cost is foretold where it is.
COST_NOISE = 0.15
START_UP = 1.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is special about a kind of job."""

    sizes: Callable[[random.Random], list[int]]
    #: Pages in the second half of the job take so many times the pages in the first.
    second_half: float = 1.0
    #: Half of the slots are lost somewhere in the middle.
    lose_slots: bool = False
    #: The first chunk of each slot waits so long for models to load. Seconds.
    cold_start: float = 0.0
    #: The merge's share of the whole job, from and to.
    merge_share: tuple[float, float] = (0.01, 0.01)


def lognormal_sizes(median: float, spread: float, chunks: int = 24) -> Callable[[random.Random], list[int]]:
    """Chunk sizes in pages around a median."""
    return lambda rng: [max(1, int(exp(rng.gauss(log(median), spread)))) for _ in range(chunks)]


def big_last(rng: random.Random) -> list[int]:
    """Small chunks, and a last one that is a fifth of all the others together."""
    sizes = lognormal_sizes(12, 0.4, 23)(rng)
    return [*sizes, sum(sizes) // 5]


SCENARIOS: Mapping[str, Scenario] = {
    "equal waves": Scenario(sizes=lambda _: [20] * 10),
    "unequal": Scenario(sizes=lognormal_sizes(18, 0.8)),
    "big last": Scenario(sizes=big_last),
    "text, scans": Scenario(sizes=lognormal_sizes(18, 0.5), second_half=7.0),
    "lose half": Scenario(sizes=lognormal_sizes(18, 0.5), lose_slots=True),
    "merge 20 %": Scenario(sizes=lognormal_sizes(18, 0.6), merge_share=(0.2, 0.2)),
    "merge 0-50 %": Scenario(sizes=lognormal_sizes(18, 0.6), merge_share=(0.0, 0.5)),
    "cold start": Scenario(sizes=lognormal_sizes(14, 0.6), cold_start=25.0),
}


def simulate(scenario: Scenario, rng: random.Random, *, merge_share: float | None = None) -> TimedJob:
    """One job of this kind.

    :param merge_share: as the jobs of its kind have it; drawn anew unless given.
    """
    sizes = scenario.sizes(rng)
    seconds = _page_seconds(scenario, sum(sizes), rng)
    slots_lost_at = rng.uniform(0.3, 0.6) * sum(seconds) / SLOTS if scenario.lose_slots else float("inf")
    free = [(0.0, slot) for slot in range(SLOTS)]
    chunks, first = [], 0
    for size in sizes:
        pages, first = seconds[first : first + size], first + size
        start, slot = heapq.heappop(free)
        while slot >= SLOTS // 2 and start > slots_lost_at:
            start, slot = heapq.heappop(free)
        cold = scenario.cold_start * rng.uniform(0.8, 1.2) if start == 0 else 0.0
        page_ends, ended = [], start + START_UP + cold
        for page in pages:
            ended += page
            page_ends.append(ended)
        chunks.append(
            TimedChunk(
                pages=size,
                attempts=[Attempt(start=start, page_ends=page_ends, end=ended)],
                cost=sum(pages) * exp(rng.gauss(0, COST_NOISE)),
            )
        )
        heapq.heappush(free, (ended, slot))
    chunks_end = max(chunk.end for chunk in chunks)
    share = rng.uniform(*scenario.merge_share) if merge_share is None else merge_share
    merge = chunks_end * share / (1 - share) * exp(rng.gauss(0, MERGE_NOISE))
    # What a unit of cost takes differs from job to job: machines do, and what they do beside.
    speed = exp(rng.gauss(0, LEVEL_SPREAD / 2))
    chunks = [replace(chunk, cost=(chunk.cost or 1.0) * speed) for chunk in chunks]
    return TimedJob(name="simulated", chunks=chunks, merge_start=chunks_end, end=chunks_end + merge, slots=SLOTS)


def _page_seconds(scenario: Scenario, pages: int, rng: random.Random) -> list[float]:
    level, drift = log(1.5) + rng.gauss(0, LEVEL_SPREAD), rng.gauss(0, DRIFT)
    shared, found = rng.gauss(0, SHARED_NOISE), []
    for page in range(pages):
        late = log(scenario.second_half) if page >= pages / 2 else 0.0
        own = rng.gauss(0, PAGE_NOISE)
        found.append(exp(level + drift * (page / pages - 0.5) + late + shared + own))
        shared = SHARED_STEP * shared + SHARED_NOISE * sqrt(1 - SHARED_STEP**2) * rng.gauss(0, 1)
    return found
