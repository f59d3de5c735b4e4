"""From rows to a finish time: what the model is given of a job, and what is promised of what it says."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp

import sqlalchemy as sa

from celery_progress_ext.calibration import Model, Phase, Promise, phase_of
from celery_progress_ext.chunks import UNFINISHED
from celery_progress_ext.eta import Facts, Merge, estimate
from celery_progress_ext.kinds import Kind
from celery_progress_ext.pace import within
from celery_progress_ext.storage import lookups
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.kinds import Kinds, timing_of
from celery_progress_ext.storage.rows import ChunkRow, JobRow, chunk_size, has_status
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks

#: Finished chunks that an estimate goes by: the last ones in the order of the document.
RECENT_CHUNKS = 60
_CACHED_JOBS = 256

_OF_JOB = sa.bindparam("of_job", type_=sa.String)
_COSTS = (
    sa.select(sa.func.coalesce(chunks.c.cost, chunk_size).label("cost"))
    .where(chunks.c.job_id == _OF_JOB, has_status(chunks.c.status, UNFINISHED))
    .order_by(chunks.c.chunk_index)
)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A job at one moment, as the rows have it; ``job.now`` says when.

    :ivar running: its chunks at work; of these, what a silent worker had is to be done again.
    :ivar finished: the last of its finished ones.
    :ivar pending: the cost of each chunk that was not started, in dispatch order.
    :ivar slots: how many of its chunks are worked on at once.
    :ivar pages_ahead: what other jobs have in its queue before its chunks, in its unit.
    :ivar pages_behind: what they have there before its merge.
    """

    job: JobRow
    kind: Kind
    running: Sequence[ChunkRow] = ()
    finished: Sequence[ChunkRow] = ()
    pending: Sequence[float] = ()
    slots: int = 1
    pages_ahead: int = 0
    pages_behind: int = 0

    @property
    def page_seconds(self) -> float:
        """What a page takes one slot, as far as is known; 0 where it is not."""
        job, experience = self.job, self.kind.experience
        if job.pace_pages:
            return job.pace_seconds / job.pace_pages
        if experience is None or not job.pages_total:
            return 0.0
        return exp(experience.pace) * (job.cost_total or job.pages_total) / job.pages_total

    @property
    def phase(self) -> Phase:
        """Where it stands, as far as estimates are alike there."""
        share = (self.job.cost_done or 0.0) / self.job.cost_total if self.job.cost_total else 0.0
        return phase_of(started=self.job.started_at is not None, merging=self.job.merging, share=share)


def promise(moment: Moment) -> Promise | None:
    """What is promised; None where nothing can be said: not one page is done, and no job of the kind was seen."""
    job, kind, now = moment.job, moment.kind, moment.job.now
    alive = [row for row in moment.running if (row.leased_until or now) >= now]
    silent = [row.expected_cost for row in moment.running if (row.leased_until or now) < now]
    found = estimate(
        Facts(
            now=now,
            pending=() if job.merging else [*silent, *moment.pending],
            running=[timing for row in alive if (timing := timing_of(row, now=now)) is not None],
            finished=[timing for row in moment.finished if (timing := timing_of(row, now=now)) is not None],
            slots=max(1, moment.slots),
            ahead=moment.pages_ahead * moment.page_seconds,
            behind=0.0 if job.merging else moment.pages_behind * moment.page_seconds,
            merge=_merge(moment),
            experience=kind.experience,
        )
    )
    if found is None:
        return None
    model = Model.of(moment.phase, found, now)
    return Promise(shown=kind.correct(model.phase, found, now), model=model)


def _merge(moment: Moment) -> Merge:
    """What is left of the merge: as past ones, less what it has run; or from its own pages."""
    job = moment.job
    if not job.has_body:
        return Merge()
    work = job.pace_seconds
    if not job.merging and job.cost_done and job.cost_total:
        # What the chunks will have taken together, as far as is known now.
        at_work = sum(max(0.0, job.now - (row.started_at or job.now)) for row in moment.running)
        work = (work + at_work) * max(1.0, job.cost_total / job.cost_done)
    expected = moment.kind.merge(work)
    if not job.merging or job.merge_started_at is None:
        return expected
    elapsed = max(0.0, job.now - job.merge_started_at)
    done, total = job.merge_pages_done, job.pages_done
    if done and total:
        own = elapsed * max(0, total - done) / done
        # The more of it is done, the more its own pace says.
        share = min(1.0, done / total)
        seconds = share * (elapsed + own) + (1 - share) * max(expected.seconds, elapsed)
        return Merge(seconds=seconds, spread=within(expected.spread * (1 - share), 0.1, 3.0), elapsed=elapsed)
    return replace(expected, elapsed=elapsed)


class Estimates:
    """Reads what an estimate needs beside the job's row and its running chunks: bounded, and by index."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.kinds = Kinds(database)
        #: The costs of what was unfinished when a run was first seen; they never change.
        self._costs: OrderedDict[tuple[str, int], tuple[float, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def of(
        self, job: JobRow, running: Sequence[ChunkRow], *, slots: int, pages_ahead: int = 0, pages_behind: int = 0
    ) -> Promise | None:
        """The promise for a job that is at work, or waits behind others that are; see :class:`Moment`."""
        merging = job.merging
        return promise(
            Moment(
                job=job,
                kind=self.kinds.get(job.kind),
                running=running,
                finished=() if merging else lookups.last_completed_chunks(self._database, job.id, limit=RECENT_CHUNKS),
                pending=() if merging else self._pending(job),
                slots=slots,
                pages_ahead=pages_ahead,
                pages_behind=pages_behind,
            )
        )

    def _pending(self, job: JobRow) -> tuple[float, ...]:
        """Costs of the chunks not started: the last ones of the dispatch order, which queues keep."""
        count = job.pending_chunks
        if not count:
            return ()
        costs = self._costs.get((job.id, job.run))
        if costs is None or len(costs) < count:
            costs = tuple(row.cost for row in self._database.rows(_COSTS, of_job=job.id))
            with self._lock:
                self._costs[job.id, job.run] = costs
                while len(self._costs) > _CACHED_JOBS:
                    self._costs.popitem(last=False)
        return costs[-count:]
