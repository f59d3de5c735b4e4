"""A job: one run over one subject, such as a document. Its statuses, their transitions, and its snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Self

from celery_progress_ext.chunks import ChunkProgress, failure_message
from celery_progress_ext.display import as_html, as_rich, one_line
from celery_progress_ext.eta import Eta
from celery_progress_ext.waiting import Waiting
from celery_progress_ext.waiting import from_dict as waiting_from_dict
from celery_progress_ext.waiting import to_dict as waiting_dict
from celery_progress_ext.wording import moment


class JobShape(StrEnum):
    """What a job without a body was published as: it ends when its chunks are terminal."""

    GROUP = "group"
    TASK = "task"


class JobStatus(StrEnum):
    """Where a job stands. The last four are terminal."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether the run is over. Only a retry leaves a terminal status."""
        return self in TERMINAL

    @property
    def ended_well(self) -> bool:
        """Whether the merge took effect: COMPLETED or PARTIAL."""
        return self in (JobStatus.COMPLETED, JobStatus.PARTIAL)


TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.PARTIAL, JobStatus.FAILED, JobStatus.CANCELLED})
ACTIVE = frozenset({JobStatus.PENDING, JobStatus.PROCESSING})

#: The new status, and the statuses it may come from.
JOB_TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        JobStatus.PENDING: frozenset(),
        # PARTIAL, FAILED and CANCELLED come back by a retry of what did not finish.
        JobStatus.PROCESSING: ACTIVE | {JobStatus.PARTIAL, JobStatus.FAILED, JobStatus.CANCELLED},
        JobStatus.COMPLETED: frozenset({JobStatus.PROCESSING}),
        JobStatus.PARTIAL: frozenset({JobStatus.PROCESSING}),
        JobStatus.FAILED: ACTIVE,
        JobStatus.CANCELLED: ACTIVE,
    }
)

#: From where a person may retry. A COMPLETED job has nothing left to do.
RETRYABLE = JOB_TRANSITIONS[JobStatus.PROCESSING] - ACTIVE

#: The statuses that a job tracked by hand may be given: all changes but a retry, which sends chunks again.
MANUAL_TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        status: since - RETRYABLE if status is JobStatus.PROCESSING else since
        for status, since in JOB_TRANSITIONS.items()
    }
)

#: The SSE event that a snapshot of this status goes out as.
EVENT_NAMES: Mapping[JobStatus, str] = MappingProxyType(
    {
        JobStatus.PENDING: "progress",
        JobStatus.PROCESSING: "progress",
        JobStatus.COMPLETED: "completed",
        JobStatus.PARTIAL: "partial",
        JobStatus.FAILED: "failed",
        JobStatus.CANCELLED: "cancelled",
    }
)
TERMINAL_EVENTS = frozenset(EVENT_NAMES[status] for status in TERMINAL)


class Owned:
    """What has an owner and a subject, under the names of the OCR service and under these."""

    matter_id: str | None
    document_id: str | None

    @property
    def owner(self) -> str | None:
        """The tenant; another name of ``matter_id``. None for a job that only an unscoped credential may read."""
        return self.matter_id

    @property
    def subject(self) -> str | None:
        """What is worked on; another name of ``document_id``."""
        return self.document_id


@dataclass(frozen=True, kw_only=True)
class ForgottenJob(Owned):
    """A job that retention has removed."""

    job_id: str
    matter_id: str | None
    document_id: str | None


@dataclass(frozen=True, kw_only=True)
class ChunkFailure:
    """A failed chunk, for a person.

    :ivar unit: what the range counts, pages unless the job says otherwise.
    :ivar ranged: whether the message names the range.
    :ivar alone: whether it is the only task of a job that is no chord.
    """

    chunk_index: int
    page_start: int
    page_end: int
    error: str
    unit: str = "pages"
    ranged: bool = True
    alone: bool = False

    @property
    def message(self) -> str:
        """``Chunk 5 (pages 101-125) failed: …``."""
        return failure_message(
            self.chunk_index,
            self.page_start,
            self.page_end,
            self.error,
            unit=self.unit,
            ranged=self.ranged,
            alone=self.alone,
        )

    def to_dict(self) -> dict[str, Any]:
        """The failure as on the wire."""
        return {
            "chunk_index": self.chunk_index,
            "page_start": self.page_start,
            "page_end": self.page_end,
            "message": self.message,
        }


@dataclass(frozen=True, kw_only=True)
class PageShortfall:
    """A page that a completed chunk could not wholly read, with the sentence that its task gave."""

    chunk_index: int
    page: int
    message: str

    def to_dict(self) -> dict[str, Any]:
        """The page as on the wire."""
        return {
            "chunk_index": self.chunk_index,
            "page_start": self.page,
            "page_end": self.page,
            "message": self.message,
        }


@dataclass(frozen=True, kw_only=True)
class StalledChunk:
    """A chunk that is alive but makes no page progress, or whose lease ran out."""

    chunk_index: int
    page_start: int
    page_end: int
    seconds: float
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The stalled chunk as on the wire; ``seconds`` since it last made progress."""
        return {
            "chunk_index": self.chunk_index,
            "page_start": self.page_start,
            "page_end": self.page_end,
            "seconds": round(self.seconds, 1),
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class FinishTime:
    """When a job will be done: the best guess and an 80 % interval around it. In UTC."""

    finish_at: datetime
    earliest: datetime
    latest: datetime

    @classmethod
    def of(cls, eta: Eta) -> FinishTime:
        """An estimate in seconds since the epoch."""
        return cls(finish_at=moment(eta.finish_at), earliest=moment(eta.earliest), latest=moment(eta.latest))


@dataclass(frozen=True, kw_only=True, repr=False)
class JobSnapshot(Owned):
    """The whole current truth about a job. Times are in UTC, on the database's clock."""

    job_id: str
    matter_id: str | None
    document_id: str | None
    version: int
    status: JobStatus
    stage: str
    stage_name: str
    progress_pct: int
    chunks: ChunkProgress
    pages_total: int
    pages_done: int
    created_at: datetime
    error: str | None = None
    eta: FinishTime | None = None
    waiting: Waiting | None = None
    work_pct: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[ChunkFailure | PageShortfall, ...] = ()
    failures_total: int = 0
    stalled: tuple[StalledChunk, ...] = ()
    heartbeat_at: datetime | None = None
    started_at: datetime | None = None
    merge_started_at: datetime | None = None
    finished_at: datetime | None = None
    unit: str = "pages"
    title: str | None = None
    #: Whether its chunks have ranges that a person can be given; else they are named by their numbers.
    ranged: bool = True

    @property
    def event(self) -> str:
        """The SSE event name: ``progress`` while running, else the terminal one."""
        return EVENT_NAMES[self.status]

    def __repr__(self) -> str:
        return f"<JobSnapshot {one_line(self)} (version {self.version})>"

    def __rich__(self) -> Any:
        """As rich prints it: the stage, a bar, and what failed or is stalled."""
        return as_rich(self)

    def _repr_html_(self) -> str:
        """As a notebook shows it."""
        return as_html(self)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that every event, and every HTTP answer about a job, carries."""
        return {
            "job_id": self.job_id,
            "matter_id": self.matter_id,
            "document_id": self.document_id,
            "title": self.title,
            "owner": self.matter_id,
            "subject": self.document_id,
            "version": self.version,
            "status": self.status.value,
            "stage": self.stage,
            "stage_name": self.stage_name,
            "progress_pct": self.progress_pct,
            "work_pct": self.work_pct,
            "error": self.error,
            "waiting": waiting_dict(self.waiting, iso),
            "chunks": self.chunks.to_dict(),
            "pages": {"total": self.pages_total, "done": self.pages_done},
            "unit": self.unit,
            "ranged": self.ranged,
            "eta": None
            if self.eta is None
            else {
                "finish_at": iso(self.eta.finish_at),
                "earliest": iso(self.eta.earliest),
                "latest": iso(self.eta.latest),
            },
            "metadata": dict(self.metadata),
            "failures": [failure.to_dict() for failure in self.failures],
            "failures_total": self.failures_total,
            "stalled": [chunk.to_dict() for chunk in self.stalled],
            "heartbeat_at": iso(self.heartbeat_at),
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "merge_started_at": iso(self.merge_started_at),
            "finished_at": iso(self.finished_at),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The reverse of :meth:`to_dict`, for programs that read the wire: an event's data, an answer of the API.

        :raises KeyError: for an object that is no snapshot.
        :raises ValueError: for a status or a time that is none.
        """
        unit = record.get("unit", "pages")
        eta = record["eta"]
        return cls(
            job_id=record["job_id"],
            matter_id=record["matter_id"],
            document_id=record["document_id"],
            version=record["version"],
            status=JobStatus(record["status"]),
            stage=record["stage"],
            stage_name=record["stage_name"],
            progress_pct=record["progress_pct"],
            work_pct=record["work_pct"],
            error=record["error"],
            waiting=waiting_from_dict(record["waiting"]),
            chunks=ChunkProgress(**{name: record["chunks"][name] for name in _CHUNKS}),
            pages_total=record["pages"]["total"],
            pages_done=record["pages"]["done"],
            unit=unit,
            ranged=record.get("ranged", True),
            eta=None if eta is None else FinishTime(**{name: datetime.fromisoformat(eta[name]) for name in _ETA}),
            metadata=record["metadata"],
            failures=tuple(_failure(each, unit) for each in record["failures"]),
            failures_total=record["failures_total"],
            stalled=tuple(StalledChunk(**{name: each[name] for name in _STALLED}) for each in record["stalled"]),
            title=record.get("title"),
            heartbeat_at=_time(record["heartbeat_at"]),
            created_at=datetime.fromisoformat(record["created_at"]),
            started_at=_time(record.get("started_at")),
            merge_started_at=_time(record.get("merge_started_at")),
            finished_at=_time(record["finished_at"]),
        )


#: What is read of the objects inside a snapshot; keys may be added on the wire.
_ETA = ("finish_at", "earliest", "latest")
_CHUNKS = ("total", "pending", "processing", "completed", "failed")
_STALLED = ("chunk_index", "page_start", "page_end", "seconds", "reason")
#: Whether a failed chunk may be named by its range, and whether it may be one task alone.
_NAMED_BY = ((True, False), (False, False), (False, True))


def _failure(record: Mapping[str, Any], unit: str) -> ChunkFailure | PageShortfall:
    index, first, last = record["chunk_index"], record["page_start"], record["page_end"]
    message = record["message"]
    for ranged, alone in _NAMED_BY:
        head = failure_message(index, first, last, "", unit=unit, ranged=ranged, alone=alone)
        if message.startswith(head):
            return ChunkFailure(
                chunk_index=index,
                page_start=first,
                page_end=last,
                error=message.removeprefix(head),
                unit=unit,
                ranged=ranged,
                alone=alone,
            )
    return PageShortfall(chunk_index=index, page=first, message=message)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def iso(time: datetime | float | None) -> str | None:
    """A time, or seconds since the epoch, as ISO 8601 with offset, in UTC; None stays None."""
    if time is None:
        return None
    return (time if isinstance(time, datetime) else moment(time)).isoformat(timespec="milliseconds")
