"""Kinds of jobs in the database: what past jobs say of the next, read by every process, written by the tick."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from celery_progress_ext.calibration import Model, Outcome, Promise
from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.eta import Eta
from celery_progress_ext.kinds import JobFigures, Kind
from celery_progress_ext.log import get_logger
from celery_progress_ext.pace import PAGES_SECONDS, Timing
from celery_progress_ext.storage import lookups
from celery_progress_ext.storage.database import Database
from celery_progress_ext.storage.expressions import now
from celery_progress_ext.storage.rows import JOB_COLUMNS, ChunkRow, JobRow
from celery_progress_ext.storage.schema import job_events as events
from celery_progress_ext.storage.schema import job_kinds as kinds
from celery_progress_ext.storage.schema import processing_jobs as jobs
from celery_progress_ext.storage.schema import unlearned

logger = get_logger(__name__)

#: How long a process goes by what it has read of a kind. Seconds.
KEPT_SECONDS = 60.0
_KEPT_KINDS = 64
#: Jobs that one tick learns from, and chunks and promises of one job that it looks at.
JOBS, CHUNKS, PROMISES = 50, 500, 500

_OF_KIND = sa.bindparam("of_kind", type_=sa.String)
_OF_JOB = sa.bindparam("of_job", type_=sa.String)
_LIMIT = sa.bindparam("limit", type_=sa.Integer)
_READ = sa.select(kinds.c.jobs).where(kinds.c.kind == _OF_KIND)
_ALL = sa.select(kinds.c.kind, kinds.c.jobs).order_by(kinds.c.updated_at.desc()).limit(_LIMIT)

NOTHING_KNOWN = Kind()


class Kinds:
    """What is known of kinds of jobs; each is read at most once in ``KEPT_SECONDS``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: OrderedDict[str, tuple[float, Kind]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str | None) -> Kind:
        """A kind; one without jobs where nothing is known."""
        if name is None:
            return NOTHING_KNOWN
        kept = self._kept.get(name)
        if kept is not None and time.monotonic() - kept[0] < KEPT_SECONDS:
            return kept[1]
        row = self._database.row(_READ, of_kind=name)
        kind = NOTHING_KNOWN if row is None else _kind(name, row.jobs)
        with self._lock:
            self._kept[name] = time.monotonic(), kind
            self._kept.move_to_end(name)
            while len(self._kept) > _KEPT_KINDS:
                self._kept.popitem(last=False)
        return kind

    def all(self, *, limit: int = 1_000) -> Mapping[str, Kind]:
        """Every kind, the one that learned last first; read anew."""
        return {row.kind: _kind(row.kind, row.jobs) for row in self._database.rows(_ALL, limit=limit)}


def _kind(name: str, stored: Iterable[Mapping[str, object]]) -> Kind:
    try:
        return Kind.from_json(list(stored))
    except (KeyError, TypeError, ValueError) as error:
        # Another version's figures: it learns anew.
        logger.warning("kind_not_understood", kind=name, error=f"{type(error).__name__}: {error}")
        return NOTHING_KNOWN


_UNLEARNED = sa.select(*JOB_COLUMNS).where(unlearned).order_by(jobs.c.finished_at).limit(_LIMIT)
_PROMISES = (
    sa.select(events.c.eta_finish_at, events.c.eta_earliest_at, events.c.eta_latest_at, events.c.eta_model)
    .where(
        events.c.job_id == _OF_JOB,
        events.c.eta_model.is_not(None),
        events.c.at >= sa.bindparam("since", type_=sa.Double),
    )
    .order_by(events.c.version)
    .limit(_LIMIT)
)
_LEARNED = (
    sa.update(jobs)
    .where(jobs.c.id == _OF_JOB, sa.func.coalesce(jobs.c.learned_run, 0) < sa.bindparam("of_run"))
    .values(learned_run=sa.bindparam("of_run", type_=sa.Integer))
    .returning(jobs.c.id)
)
_LOCK = sa.select(kinds.c.jobs).where(kinds.c.kind == _OF_KIND).with_for_update()
_INSERTS = {
    dialect: insert.on_conflict_do_update(
        index_elements=[kinds.c.kind], set_={"jobs": insert.excluded.jobs, "updated_at": now()}
    )
    for dialect, insert in (
        ("sqlite", sqlite.insert(kinds).values(updated_at=now())),
        ("postgresql", postgresql.insert(kinds).values(updated_at=now())),
    )
}


@dataclass(frozen=True, kw_only=True)
class _Lesson:
    """A run that ended, and what it says; None where it says nothing: it failed, or was cancelled."""

    job: JobRow
    figures: JobFigures | None


def learn(database: Database) -> int:
    """Learn from runs that ended, each once, also where two beats tick; how many.

    Not in the transaction that ends a job: the row of its kind would be one hot row, and stand in users' transactions.
    """
    ended = [JobRow.of(row) for row in database.rows(_UNLEARNED, limit=JOBS)]
    by_kind: dict[str, list[_Lesson]] = {}
    for job in ended:
        if job.kind is not None:
            by_kind.setdefault(job.kind, []).append(_lesson(database, job))
    for name, lessons in by_kind.items():
        database.write(lambda conn, name=name, lessons=lessons: _note(conn, name, lessons))  # type: ignore[misc]
    return len(ended)


def _note(conn: Connection, name: str, lessons: Iterable[_Lesson]) -> None:
    # The jobs before the kind, so that of two beats the second finds nothing left to add.
    taken = [
        lesson.figures
        for lesson in sorted(lessons, key=lambda lesson: lesson.job.id)
        if conn.execute(_LEARNED, {"of_job": lesson.job.id, "of_run": lesson.job.run}).first() is not None
    ]
    more = [figures for figures in taken if figures is not None]
    if not more:
        return
    row = conn.execute(_LOCK, {"of_kind": name}).first()
    kind = NOTHING_KNOWN if row is None else _kind(name, row.jobs)
    conn.execute(_INSERTS[conn.dialect.name], {"kind": name, "jobs": kind.with_jobs(more).to_json()})


def _lesson(database: Database, job: JobRow) -> _Lesson:
    if not job.status.ended_well or job.finished_at is None or not job.completed_chunks:
        return _Lesson(job=job, figures=None)
    rows = lookups.last_completed_chunks(database, job.id, limit=CHUNKS)
    began = job.created_at if job.run == 1 else min((row.started_at or job.finished_at for row in rows), default=0.0)
    promises = [
        Promise(
            shown=Eta(finish_at=row.eta_finish_at, earliest=row.eta_earliest_at, latest=row.eta_latest_at),
            model=Model.from_json(row.eta_model),
        )
        for row in database.rows(_PROMISES, of_job=job.id, since=began, limit=PROMISES)
    ]
    return _Lesson(job=job, figures=figures_of(job, rows, promises))


def figures_of(job: JobRow, rows: Sequence[ChunkRow], promises: Iterable[Promise]) -> JobFigures:
    """What a run that ended well says: its row, its finished chunks, and what was promised while it ran."""
    assert job.finished_at is not None
    return JobFigures.of(
        [timing for row in rows if (timing := timing_of(row, now=job.now)) is not None],
        work=job.pace_seconds,
        # After a retry the merge does everything again, but only some chunks were timed.
        merge=None if job.run > 1 or job.merge_started_at is None else job.finished_at - job.merge_started_at,
        slots=slots_of(rows),
        outcomes=[Outcome.of(promise, ended=job.finished_at) for promise in promises],
    )


def slots_of(rows: Iterable[ChunkRow]) -> int:
    """How many chunks were at work at once, at most."""
    changes = sorted(
        change
        for row in rows
        if row.started_at is not None and row.finished_at is not None
        for change in ((row.started_at, 1), (row.finished_at, -1))
    )
    most = at_work = 0
    for _, change in changes:
        at_work += change
        most = max(most, at_work)
    return max(1, most)


def timing_of(row: ChunkRow, *, now: float) -> Timing | None:
    """A chunk that was started as the pace model sees it; None where it has no start.

    Where a task reports steps that are not its pages, these are the model's pages.
    """
    if row.started_at is None:
        return None
    finished = row.status is ChunkStatus.COMPLETED and row.finished_at is not None
    steps = max(1, row.steps_total or row.pages)
    done = steps if finished else row.attempt_pages_done if row.steps_done is None else row.steps_done
    until = row.finished_at if finished and row.finished_at is not None else now
    return Timing(
        index=row.chunk_index,
        pages=steps,
        cost=row.expected_cost,
        # Its last step is done, and its end is not: it is on its way.
        done=done if finished else min(done, steps - 1) if steps > 1 else 0,
        elapsed=max(0.0, until - row.started_at),
        quiet=0.0 if finished else max(0.0, now - (row.progressed_at or now)),
        first=None if row.first_at is None else max(0.0, row.first_at - row.started_at),
        first_done=row.first_steps or 1,
        unwritten=0.0 if finished else PAGES_SECONDS,
    )
