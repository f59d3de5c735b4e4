"""Is what is shown true? Every job recounted from its chunk rows, and its rows compared with its history.

A job's rows and events are read a page at a time, so that 10,000 chunks need no more memory than their statuses, and
as they were at one moment (:meth:`Database.read`), so that workers that write meanwhile are no drift.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from celery_progress_ext.chunks import ChunkStatus, percent
from celery_progress_ext.exceptions import JobNotFound
from celery_progress_ext.history import NAMED_LIMIT, Account, Event
from celery_progress_ext.storage.connection import Connection
from celery_progress_ext.storage.database import Database, Row, execute, execute_one

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


_EVENTS = """
SELECT id, version, type, chunk_index, attempt FROM job_events
WHERE job_id = :id AND version >= :version AND (version > :version OR id > :after)
ORDER BY version, id LIMIT :limit
"""
_CHUNKS = """
SELECT chunk_index, status, attempt, pages_done, page_end - page_start + 1 AS pages FROM document_ocr_chunks
WHERE job_id = :id AND chunk_index > :after ORDER BY chunk_index LIMIT :limit
"""


class JobAudit:
    """The audit of one job, in pages: first its events, then its chunks. :attr:`drifts` is whole when :attr:`done`.

    :param job: the job's row. The pages have to be read at the moment of that row (:meth:`Database.read`), or at any
        later one at which the job is over and still has that version.
    """

    def __init__(self, job: Row) -> None:
        self._job = job
        self._account = Account(total=job["total_chunks"])
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
        return str(self._job["id"])

    @property
    def version(self) -> int:
        """The version of the job that is audited."""
        return int(self._job["version"])

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
        rows = execute(conn, _EVENTS, id=self.job_id, version=version, after=after, limit=limit)
        for row in rows:
            self._account.add(
                Event(version=row["version"], type=row["type"], chunk_index=row["chunk_index"], attempt=row["attempt"])
            )
        if rows:
            self._event = (rows[-1]["version"], rows[-1]["id"])
        self._events_read = len(rows) < limit
        return len(rows)

    def _read_chunks(self, conn: Connection, limit: int) -> int:
        rows = execute(conn, _CHUNKS, id=self.job_id, after=self._chunk, limit=limit)
        for row in rows:
            self._statuses[row["status"]] += 1
            self._pages += row["pages"]
            self._pages_done += row["pages_done"]
            self._compare_chunk(row)
        if rows:
            self._chunk = rows[-1]["chunk_index"]
        self.done = len(rows) < limit
        return len(rows)

    def _compare_chunk(self, row: Row) -> None:
        told = self._account.chunk(row["chunk_index"])
        for name, expected in (("status", told.status.value), ("attempt", told.attempt)):
            if row[name] != expected:
                self._chunks_drifted += 1
                if self._chunks_drifted <= NAMED_LIMIT:
                    what = f"chunk {row['chunk_index'] + 1} {name}"
                    self._chunk_drifts.append(self._drift(Source.HISTORY, what, row[name], expected))

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
            found = self._job[name]
            # A percent told by hand may be ahead of the chunks.
            if found != expected and not (name == "progress_pct" and self._account.by_hand and found > expected):
                yield self._drift(Source.ROWS, name, found, expected)
        account = self._account
        if self._job["status"] not in account.statuses:
            yield self._drift(Source.HISTORY, "status", self._job["status"], account.told_status())
        for name, least in (("version", account.version), ("body_attempt", account.body_attempt)):
            if self._job[name] < least:
                yield self._drift(Source.HISTORY, name, self._job[name], f"at least {least}")

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
            raise JobNotFound(f"There is no job {job_id!r}; it may have been removed by retention.")
        return found
    drifts: list[Drift] = []
    for each in _job_ids(database):
        found = database.read(partial(_audit_job, job_id=each))
        # None: it was forgotten meanwhile.
        drifts += found or []
    return drifts


def _job_ids(database: Database) -> Iterator[str]:
    after = ""
    while rows := database.rows(
        "SELECT id FROM processing_jobs WHERE id > :after ORDER BY id LIMIT :limit", after=after, limit=PAGE
    ):
        yield from (row["id"] for row in rows)
        after = rows[-1]["id"]


def begin(conn: Connection, job_id: str) -> JobAudit | None:
    """The audit of a job as it is now, nothing of it read; None where there is no such job."""
    job = execute_one(conn, "SELECT * FROM processing_jobs WHERE id = :id", id=job_id)
    return None if job is None else JobAudit(job)


def _audit_job(conn: Connection, job_id: str) -> list[Drift] | None:
    work = begin(conn, job_id)
    if work is None:
        return None
    work.read(conn)
    return work.drifts()
