"""From rows to the whole truth about a job. What needs a query beside the job's row is bounded and short-lived."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from celery_progress_ext import ids
from celery_progress_ext.calibration import Promise
from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.config import Settings
from celery_progress_ext.jobs import ChunkFailure, FinishTime, JobSnapshot, JobStatus, PageShortfall, StalledChunk
from celery_progress_ext.lanes import JobQueues
from celery_progress_ext.steady import Shown, steady
from celery_progress_ext.storage import shortfalls
from celery_progress_ext.storage.backlog import CurrentBacklog
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.estimates import Estimates
from celery_progress_ext.storage.expressions import among
from celery_progress_ext.storage.kinds import Kinds
from celery_progress_ext.storage.rows import CHUNK_COLUMNS, JOB_COLUMNS, ChunkRow, JobRow, active, has_status, is_status
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.schema import processing_jobs as jobs
from celery_progress_ext.storage.workers import CurrentRoster
from celery_progress_ext.titles import search_words
from celery_progress_ext.waiting import Standing, Waiting, healing, waiting_of, work_pct
from celery_progress_ext.wording import moment

#: Failures and stalled chunks named in one snapshot; the counts are always exact.
NAMED_LIMIT = 100
#: How old the view of the running chunks (ETA, stalled) may be, so that a completion costs O(1). Seconds.
VIEW_SECONDS = 1.0
_CACHED_JOBS = 256

_OF_JOB = sa.bindparam("of_job", type_=sa.String)
_BY_ID = sa.select(*JOB_COLUMNS).where(jobs.c.id == _OF_JOB)
_RUNNING = (
    sa.select(*CHUNK_COLUMNS)
    .where(chunks.c.job_id == _OF_JOB, is_status(chunks.c.status, ChunkStatus.PROCESSING))
    .order_by(chunks.c.chunk_index)
)


@dataclass(frozen=True, slots=True)
class _View:
    taken_at: float
    promise: Promise | None
    stalled: tuple[StalledChunk, ...]
    waiting: Waiting | None
    #: The most chunks that were at work lately, and when: between two chunks a slot is not lost.
    slots: tuple[int, float]


_NEWEST_FIRST = (jobs.c.created_at.desc(), jobs.c.id.desc())


def listed(
    matter_id: str | None = None,
    *,
    active_only: bool = False,
    statuses: frozenset[JobStatus] | None = None,
    search: str = "",
    before: tuple[datetime, str] | None = None,
    limit: int = 50,
) -> sa.Select[Any]:
    """The query of a page of a list, newest first.

    What is on the page is found in ``ix_processing_jobs_listed`` alone; only then are its rows read, which are large.
    """
    ids = sa.select(jobs.c.id).order_by(*_NEWEST_FIRST).limit(limit)
    if matter_id is not None:
        ids = ids.where(jobs.c.matter_id == matter_id)
    if active_only:
        ids = ids.where(active)
    if statuses is not None:
        ids = ids.where(has_status(jobs.c.status, statuses))
    for word in search_words(search):
        ids = ids.where(jobs.c.title_key.contains(word, autoescape=True))
    if before is not None:
        at, job_id = before
        # A datetime does not hold the last digits of the row's time; it serves where that job was deleted meanwhile.
        last = sa.select(jobs.c.created_at).where(jobs.c.id == job_id).correlate(None).scalar_subquery()
        ids = ids.where(
            sa.tuple_(jobs.c.created_at, jobs.c.id) < sa.tuple_(sa.func.coalesce(last, at.timestamp()), job_id)
        )
    on_page = among(jobs.c.id, ids.correlate(None).scalar_subquery())
    return sa.select(*JOB_COLUMNS).where(on_page).order_by(*_NEWEST_FIRST)


class Snapshots:
    """Reads snapshots; keeps what was last seen of the running chunks of recent jobs, for ``VIEW_SECONDS``.

    :param last_shown: the finish time of a job that any process has shown last; where none is known, that of this one
        counts.
    :param beat_missing: whether no tick was seen for some ticks; asked only where a worker is silent.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        last_shown: Callable[[str], Shown | None] | None = None,
        beat_missing: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._settings = settings
        self._shown_by_any = last_shown
        self._beat_missing = beat_missing
        self._estimates = Estimates(database)
        self._roster = CurrentRoster(database)
        self._backlog = CurrentBacklog(database)
        self._views: OrderedDict[str, _View] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, job_id: str) -> JobSnapshot:
        """The snapshot of a job as it is now.

        :raises JobNotFound: when there is no such job.
        """
        row = self._database.row(_BY_ID, of_job=job_id)
        if row is None:
            raise ids.unknown(job_id)
        return self.of(JobRow.of(row))

    def find(
        self,
        *,
        matter_id: str | None = None,
        active_only: bool = False,
        statuses: frozenset[JobStatus] | None = None,
        search: str = "",
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> list[JobSnapshot]:
        """Snapshots, newest first. See ``JobTrackingService.list``."""
        found = listed(matter_id, active_only=active_only, statuses=statuses, search=search, before=before, limit=limit)
        return [self.of(JobRow.of(row)) for row in self._database.rows(found)]

    def of(self, job: JobRow, *, bypass_cache: bool = True, freed_slots: int = 0) -> JobSnapshot:
        """The snapshot that belongs to a job's row (with ``now``).

        :param bypass_cache: False where the view of the running chunks may be up to ``VIEW_SECONDS`` old.
        :param freed_slots: slots that have just been freed and will take a pending chunk at once.
        """
        view = (
            _View(0.0, None, (), None, (0, 0.0))
            if job.status.terminal
            else self._view(job, bypass_cache=bypass_cache, freed_slots=freed_slots)
        )
        return JobSnapshot(
            job_id=job.id,
            matter_id=job.matter_id,
            document_id=job.document_id,
            version=job.version,
            status=job.status,
            stage=job.stage,
            stage_name=job.stage_name,
            progress_pct=job.progress_pct,
            chunks=job.chunks,
            pages_total=job.pages_total,
            pages_done=job.pages_done,
            created_at=moment(job.created_at),
            error=job.error,
            eta=None if view.promise is None else FinishTime.of(view.promise.shown),
            metadata=_metadata(job),
            failures=self._failures(job),
            failures_total=job.failed_chunks + job.reservations,
            waiting=view.waiting,
            work_pct=_work_pct(job),
            stalled=view.stalled,
            heartbeat_at=moment(job.now),
            title=job.title,
            started_at=_moment(job.started_at),
            merge_started_at=_moment(job.merge_started_at),
            finished_at=_moment(job.finished_at),
            unit=job.unit,
            ranged=job.ranged is not False,
        )

    @property
    def kinds(self) -> Kinds:
        """What is known of kinds of jobs."""
        return self._estimates.kinds

    def last_promise(self, job_id: str) -> Promise | None:
        """The finish time that this process gave last for a job."""
        view = self._views.get(job_id)
        return None if view is None else view.promise

    def _last_shown(self, job_id: str) -> Shown | None:
        shown = None if self._shown_by_any is None else self._shown_by_any(job_id)
        if shown is None and (promise := self.last_promise(job_id)) is not None:
            return Shown(promise.shown.finish_at, promise.model.at)
        return shown

    def _failures(self, job: JobRow) -> tuple[ChunkFailure | PageShortfall, ...]:
        """The first chunks that failed, then the first pages that were not wholly read."""
        found: list[ChunkFailure | PageShortfall] = []
        if job.failed_chunks:
            found += (
                job.failure(row) for row in self._database.rows(shortfalls.FAILED, of_job=job.id, limit=NAMED_LIMIT)
            )
        if job.reservations and len(found) < NAMED_LIMIT:
            found += (
                PageShortfall(chunk_index=row.chunk_index, page=page["page"], message=page["message"])
                for row in self._database.rows(shortfalls.RESERVED, of_job=job.id, limit=NAMED_LIMIT)
                for page in row.reservations
            )
        return tuple(found[:NAMED_LIMIT])

    def _view(self, job: JobRow, *, bypass_cache: bool, freed_slots: int) -> _View:
        kept = self._views.get(job.id)
        if kept is not None and not bypass_cache and time.monotonic() - kept.taken_at < VIEW_SECONDS:
            return kept
        running = [ChunkRow.of(row) for row in self._database.rows(_RUNNING, of_job=job.id)]
        alive = [row for row in running if (row.leased_until or job.now) >= job.now]
        slots = _slots(kept, len(alive) + (freed_slots if job.pending_chunks and not job.merging else 0))
        waiting = self._waiting(job, alive, silent=len(running) - len(alive))
        # While nothing moves, a finish time would be a promise that moves with the clock.
        moves = waiting is None or waiting.moves
        promise = self._promise(job, running, at_work=slots[0]) if moves else None
        if promise is not None:
            promise = replace(promise, shown=steady(promise.shown, self._last_shown(job.id), now=job.now))
        view = _View(time.monotonic(), promise, self._stalled(job, running), waiting, slots)
        with self._lock:
            self._views[job.id] = view
            while len(self._views) > _CACHED_JOBS:
                self._views.popitem(last=False)
        return view

    def _promise(self, job: JobRow, running: Sequence[ChunkRow], *, at_work: int) -> Promise | None:
        if not job.total_chunks:
            return None
        ahead, behind = self._pages_around(job, waits=not running)
        slots = self._slots_to_come(job, at_work)
        return self._estimates.of(job, running, slots=slots, pages_ahead=ahead, pages_behind=behind)

    def _slots_to_come(self, job: JobRow, at_work: int) -> int:
        """How many chunks of a job will be worked on at once: as many as now, unless more slots are on their way."""
        queue, roster = JobQueues.of(job.queues).chunks, self._roster.get()
        others = self._backlog.get().before(queue, job.now, unit=job.unit).jobs - int(job.pending_chunks > 0)
        first_wave = others <= 0 and job.now - (job.started_at or job.now) < _FIRST_WAVE_SECONDS
        live = roster.slots(None if queue is None else [queue]) if first_wave or not at_work else 0
        return max(1, at_work, live)

    def _pages_around(self, job: JobRow, *, waits: bool) -> tuple[int, int]:
        """What other jobs have in the queue before this one's chunks, where it waits for its turn; and what they have
        there before its merge, which is published last. In a lane of its own, the merge waits for nobody's chunks.
        """
        queues, backlog = JobQueues.of(job.queues), self._backlog.get()
        queued = job.pending_chunks > 0
        ahead = backlog.before(queues.chunks, job.created_at, unit=job.unit).pages or 0 if waits and queued else 0
        if job.merging or not job.has_body or queues.body != queues.chunks:
            return ahead, 0
        everything = backlog.before(queues.body, job.now, unit=job.unit).pages or 0
        own = max(0, job.pages_total - job.pages_done) if queued else 0
        return ahead, max(0, everything - own - ahead)

    def _waiting(self, job: JobRow, alive: Sequence[ChunkRow], *, silent: int) -> Waiting | None:
        # A job that a caller tracks by hand has no chunks, and nobody to wait for.
        if not job.total_chunks:
            return None
        progressed = max((row.progressed_at or job.now for row in alive), default=job.now)
        queues = JobQueues.of(job.queues)
        standing = Standing(
            now=job.now,
            created_at=job.created_at,
            changed_at=job.updated_at,
            started=job.started_at is not None,
            at_work=len(alive),
            silent=silent,
            settled=job.chunks.settled,
            merging=job.merging,
            body_alive=(job.body_leased_until or 0.0) >= job.now,
            stuck_since=progressed if job.now - progressed > self._settings.stall_seconds else None,
            queue=queues.body if job.chunks.settled else queues.chunks,
            unit=job.unit,
            merge_message=job.merge_message,
        )
        if standing.works:
            return None
        if standing.silent or standing.merging:
            standing = replace(standing, no_beat=self._beat_missing())
        # Where a merge waits, whatever was published before its last chunk ended is before it.
        moment = job.updated_at if standing.settled else job.created_at
        before = self._backlog.get().before(standing.queue, moment, unit=job.unit)
        return waiting_of(standing, self._roster.get(), before)

    def _stalled(self, job: JobRow, running: Sequence[ChunkRow]) -> tuple[StalledChunk, ...]:
        now, found = job.now, []
        for row in running:
            quiet = now - (row.progressed_at or now)
            if (row.leased_until or now) < now:
                reason = f"its worker gives no sign of life; {healing('it', no_beat=self._beat_missing())}"
            elif quiet > self._settings.stall_seconds:
                reason = "its worker is alive but makes no progress; the time limit will end it"
            else:
                continue
            found.append(
                StalledChunk(
                    chunk_index=row.chunk_index,
                    page_start=row.page_start,
                    page_end=row.page_end,
                    seconds=quiet,
                    reason=reason,
                )
            )
        return tuple(found[:NAMED_LIMIT])


#: For how long after its start a job without others beside it is taken to get every slot. Seconds.
_FIRST_WAVE_SECONDS = 5.0
#: For how long a slot that no chunk has counts: the next chunk's start is recorded a moment later. Seconds.
SLOT_SECONDS = 2.0


def _slots(before: _View | None, at_work: int) -> tuple[int, float]:
    """How many chunks can be at work at once, from the view before and what is at work now."""
    now = time.monotonic()
    if before is not None and before.slots[0] > at_work and now - before.slots[1] < SLOT_SECONDS:
        return before.slots
    return at_work, now


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else moment(seconds)


def _work_pct(job: JobRow) -> float:
    """The bar of work of a job's row."""
    # A job of before costs were kept counts its pages.
    done, total = (
        (job.pages_done, job.pages_total) if job.cost_total is None else (job.cost_done or 0.0, job.cost_total)
    )
    return work_pct(
        ended_well=job.status.ended_well,
        merging=job.merging,
        done=done / total if total else 0.0,
        merged=job.merge_pages_done / job.pages_done if job.pages_done else 0.0,
        merge_share=job.merge_share,
        floor=job.work_floor or 0.0,
    )


def _metadata(job: JobRow) -> dict[str, Any]:
    """The job's metadata, and the counts under the names that the live stream's readers know."""
    metadata = dict(job.metadata)
    chunk_processing = metadata.get("chunk_processing") or {
        "total_chunks": job.total_chunks,
        "completed_chunks": job.completed_chunks,
        "failed_chunks": job.failed_chunks,
        "current_chunk_index": None,
        "current_page_range": None,
    }
    metadata["chunk_processing"] = {
        **chunk_processing,
        "total_chunks": job.total_chunks,
        "completed_chunks": job.completed_chunks,
        "failed_chunks": job.failed_chunks,
    }
    return {
        **metadata,
        "chunk_index": chunk_processing.get("current_chunk_index"),
        "current_page_range": chunk_processing.get("current_page_range"),
        "total_chunks": job.total_chunks,
        "chunks_completed": job.completed_chunks,
        "chunks_total": job.total_chunks,
        "chunks_failed": job.failed_chunks,
    }
