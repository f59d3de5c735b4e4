"""The audit: every job is recounted from its chunk rows, and its rows are compared with its history.

A job's rows and events are read a page at a time, so that 10,000 chunks need no more memory than their statuses, and
as they were at one moment (:meth:`Database.read`), so that concurrent writes do not look like drift.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext import ids
from celery_progress_ext.chunks import ChunkStatus, percent
from celery_progress_ext.history import NAMED_LIMIT, Event, HistoryReplay
from celery_progress_ext.storage.database import AnyRow, Database
from celery_progress_ext.storage.rows import JOB_COLUMNS, JobRow, chunk_size
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks
from celery_progress_ext.storage.schema import job_events as events
from celery_progress_ext.storage.schema import processing_jobs as jobs

#: Rows read at a time.
PAGE = 1_000


class Source(StrEnum):
    """What a job's row was compared with."""

    ROWS = "rows"
    HISTORY = "history"


_SAYS = {Source.ROWS: "its chunk rows say", Source.HISTORY: "its history says"}
_ADVICE = {
    Source.ROWS: "the chunk rows decide: stop the workers and set the column to what they say, or run the job again",
    Source.HISTORY: "somebody changed the rows or the events past the library (by hand, from a backup):"
    " compare with `progress show JOB`, and run the job again",
}


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One thing about a job that is not what its chunk rows or its history say."""

    job_id: str
    #: The job's version when it was read.
    version: int
    #: A column of the job, ``chunk 5 status``, ``chunk 5 attempt``, or ``event at version 12``; chunks count from 1.
    what: str
    found: int | str
    against: Source
    expected: int | str

    def __str__(self) -> str:
        return f"{self.job_id}: {self.what} is {self.found}, {_SAYS[self.against]} {self.expected}"

    @property
    def advice(self) -> str:
        """What to do about it."""
        return _ADVICE[self.against]


_OF_JOB = sa.bindparam("of_job", type_=sa.String)
_LIMIT = sa.bindparam("limit", type_=sa.Integer)
_AFTER = sa.bindparam("after", type_=sa.Integer)
_VERSION = sa.bindparam("of_version", type_=sa.BigInteger)
_EVENTS = (
    sa.select(events.c.id, events.c.version, events.c.type, events.c.chunk_index, events.c.attempt)
    .where(
        events.c.job_id == _OF_JOB,
        events.c.version >= _VERSION,
        sa.or_(events.c.version > _VERSION, events.c.id > _AFTER),
    )
    .order_by(events.c.version, events.c.id)
    .limit(_LIMIT)
)
_CHUNKS = (
    sa.select(
        chunks.c.chunk_index,
        chunks.c.status,
        chunks.c.attempt,
        chunks.c.pages_done,
        chunk_size.label("pages"),
    )
    .where(chunks.c.job_id == _OF_JOB, chunks.c.chunk_index > _AFTER)
    .order_by(chunks.c.chunk_index)
    .limit(_LIMIT)
)
_JOB = sa.select(*JOB_COLUMNS).where(jobs.c.id == _OF_JOB)
_JOB_IDS = (
    sa.select(jobs.c.id).where(jobs.c.id > sa.bindparam("after", type_=sa.String)).order_by(jobs.c.id).limit(_LIMIT)
)


class JobAudit:
    """The audit of one job, in pages: first its events, then its chunks. :attr:`drifts` is whole when :attr:`done`.

    :param job: the job's row. The pages have to be read at the moment of that row (:meth:`Database.read`), or at any
        later one at which the job is over and still has that version.
    """

    def __init__(self, job: JobRow) -> None:
        self._job = job
        self._account = HistoryReplay(total=job.total_chunks, has_body=job.has_body)
        self._event = (0, 0)
        self._chunk = -1
        self._events_read = False
        self._statuses: Counter[str] = Counter()
        self._pages = self._pages_done = 0
        self._chunk_drifts: list[Drift] = []
        self._chunks_drifted = 0
        #: Whether everything is read.
        self.done = False

    @property
    def job_id(self) -> str:
        """The job."""
        return self._job.id

    @property
    def version(self) -> int:
        """The version of the job that is audited."""
        return self._job.version

    def read(self, conn: Connection, limit: int | None = None) -> int:
        """Read on, to the end or at most ``limit`` rows; how many they were."""
        count = 0
        while not self.done and (limit is None or count < limit):
            page = self._read_chunks if self._events_read else self._read_events
            count += page(conn, PAGE if limit is None else min(PAGE, limit - count))
        return count

    def drifts(self) -> list[Drift]:
        """What differs; at most ``NAMED_LIMIT`` chunks and ``NAMED_LIMIT`` events are named."""
        return [*self._job_drifts(), *self._chunk_drifts, *self._event_drifts()]

    def _read_events(self, conn: Connection, limit: int) -> int:
        version, after = self._event
        rows = conn.execute(
            _EVENTS, {"of_job": self.job_id, "of_version": version, "after": after, "limit": limit}
        ).all()
        for row in rows:
            self._account.add(
                Event(version=row.version, type=row.type, chunk_index=row.chunk_index, attempt=row.attempt)
            )
        if rows:
            self._event = (rows[-1].version, rows[-1].id)
        self._events_read = len(rows) < limit
        return len(rows)

    def _read_chunks(self, conn: Connection, limit: int) -> int:
        rows = conn.execute(_CHUNKS, {"of_job": self.job_id, "after": self._chunk, "limit": limit}).all()
        for row in rows:
            self._statuses[row.status] += 1
            self._pages += row.pages
            self._pages_done += row.pages_done
            self._compare_chunk(row)
        if rows:
            self._chunk = rows[-1].chunk_index
        self.done = len(rows) < limit
        return len(rows)

    def _compare_chunk(self, row: AnyRow) -> None:
        replayed = self._account.chunk(row.chunk_index)
        for name, found, expected in (
            ("status", row.status, replayed.status.value),
            ("attempt", row.attempt, replayed.attempt),
        ):
            if found != expected:
                self._chunks_drifted += 1
                if self._chunks_drifted <= NAMED_LIMIT:
                    what = f"chunk {row.chunk_index + 1} {name}"
                    self._chunk_drifts.append(self._drift(Source.HISTORY, what, found, expected))

    def _job_drifts(self) -> Iterator[Drift]:
        completed = self._statuses[ChunkStatus.COMPLETED]
        recounted = {
            "total_chunks": self._statuses.total(),
            **{f"{status}_chunks": self._statuses[status] for status in ChunkStatus},
            "pages_total": self._pages,
            "pages_done": self._pages_done,
            "progress_pct": percent(completed, self._statuses.total()),
        }
        for name, expected in recounted.items():
            found = getattr(self._job, name)
            # A percent set by hand may be ahead of the chunks.
            if found != expected and not (name == "progress_pct" and self._account.by_hand and found > expected):
                yield self._drift(Source.ROWS, name, found, expected)
        account = self._account
        if self._job.status not in account.statuses:
            yield self._drift(Source.HISTORY, "status", self._job.status, account.status_in_words())
        for name, least in (("version", account.version), ("body_attempt", account.body_attempt)):
            if getattr(self._job, name) < least:
                yield self._drift(Source.HISTORY, name, getattr(self._job, name), f"at least {least}")

    def _event_drifts(self) -> Iterator[Drift]:
        for contradiction in self._account.contradictions:
            event = contradiction.event
            yield self._drift(Source.HISTORY, f"event at version {event.version}", str(event), contradiction.rule)
        for kind, count in (("events", self._account.contradicted), ("chunks", self._chunks_drifted)):
            if count > NAMED_LIMIT:
                yield self._drift(Source.HISTORY, f"number of {kind} that differ", count, "none")

    def _drift(self, against: Source, what: str, found: int | str, expected: int | str) -> Drift:
        return Drift(
            job_id=self.job_id,
            version=self.version,
            what=what,
            found=found,
            against=against,
            expected=expected,
        )


def audit(database: Database, job_id: str | None = None) -> list[Drift]:
    """Recount one job, or every job, from its chunk rows and its history; what differs.

    :raises JobNotFound: when ``job_id`` is given and there is no such job.
    """
    if job_id is not None:
        found = database.read(partial(_audit_job, job_id=job_id))
        if found is None:
            raise ids.unknown(job_id)
        return found
    drifts: list[Drift] = []
    for each in _job_ids(database):
        found = database.read(partial(_audit_job, job_id=each))
        # None: it was forgotten meanwhile.
        drifts += found or []
    return drifts


def _job_ids(database: Database) -> Iterator[str]:
    after = ""
    while rows := database.rows(_JOB_IDS, after=after, limit=PAGE):
        yield from (row.id for row in rows)
        after = rows[-1].id


def begin(conn: Connection, job_id: str) -> JobAudit | None:
    """The audit of a job as it is now, nothing of it read; None where there is no such job."""
    row = conn.execute(_JOB, {"of_job": job_id}).first()
    return None if row is None else JobAudit(JobRow.of(row))


def _audit_job(conn: Connection, job_id: str) -> list[Drift] | None:
    work = begin(conn, job_id)
    if work is None:
        return None
    work.read(conn)
    return work.drifts()
