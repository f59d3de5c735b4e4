"""Jobs: statuses, transitions, stages and the snapshot on the wire."""

from __future__ import annotations

import json
from datetime import datetime

from celery_progress_ext import PIPELINE_STAGES, ChunkProgress, JobSnapshot, JobStatus
from celery_progress_ext.eta import Eta
from celery_progress_ext.jobs import (
    ACTIVE,
    EVENT_NAMES,
    JOB_TRANSITIONS,
    RETRYABLE,
    TERMINAL,
    ChunkFailure,
    FinishTime,
    PageShortfall,
    StalledChunk,
)
from celery_progress_ext.stages import StageName, earlier, stage
from celery_progress_ext.waiting import Waiting
from celery_progress_ext.wording import moment


def test_every_status_is_active_or_terminal() -> None:
    """Nothing in between, so that a watcher knows when to stop."""
    assert set(JobStatus) == TERMINAL | ACTIVE
    assert not TERMINAL & ACTIVE


def test_a_completed_job_stays_completed() -> None:
    """No transition leaves COMPLETED, and only a retry leaves the other terminal statuses."""
    leaves = {old for new, olds in JOB_TRANSITIONS.items() for old in olds if new is not old}
    assert JobStatus.COMPLETED not in leaves
    assert leaves & TERMINAL == RETRYABLE


def test_a_job_is_completed_only_from_processing() -> None:
    """Never from PENDING: something has to have run."""
    assert JOB_TRANSITIONS[JobStatus.COMPLETED] == {JobStatus.PROCESSING}


def test_the_merge_is_a_stage_of_its_own_after_the_chunks() -> None:
    """With the messages of the story."""
    assert [row.name for row in PIPELINE_STAGES][-2:] == [StageName.CHUNK_PROCESSING, StageName.MERGE]
    assert stage(StageName.CHUNK_PROCESSING).format(completed=5, total=17) == "Processing chunk 5/17"
    assert stage(StageName.MERGE).format() == "Merging OCR results"
    assert earlier("chunk_processing", "merge")
    assert not earlier("merge", "chunk_processing")


def _snapshot(**changes: object) -> JobSnapshot:
    fields: dict[str, object] = {
        "job_id": "job_1",
        "matter_id": "m",
        "document_id": "d",
        "version": 42,
        "status": JobStatus.PROCESSING,
        "stage": "Processing chunk 5/17",
        "stage_name": "chunk_processing",
        "progress_pct": 29,
        "chunks": ChunkProgress(total=17, pending=10, processing=2, completed=5, failed=0),
        "pages_total": 425,
        "pages_done": 139,
        "created_at": moment(1_700_000_000.0),
    }
    return JobSnapshot(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_wire_form_has_every_field_of_the_contract() -> None:
    """A reader may rely on each of them in every event."""
    eta = Eta(finish_at=1_700_000_100.0, earliest=1_700_000_090.0, latest=1_700_000_120.0)
    wire = _snapshot(eta=FinishTime.of(eta)).to_dict()
    assert {
        "job_id", "matter_id", "document_id", "version", "status", "stage", "progress_pct", "error", "chunks", "pages",
        "eta", "metadata", "failures", "stalled", "heartbeat_at", "created_at", "finished_at",
    } <= set(wire)  # fmt: skip
    assert wire["chunks"] == {"total": 17, "pending": 10, "processing": 2, "completed": 5, "failed": 0}
    assert wire["pages"] == {"total": 425, "done": 139}
    assert set(wire["eta"]) == {"finish_at", "earliest", "latest"}


def test_times_on_the_wire_carry_their_offset() -> None:
    """ISO 8601, so that a browser in another zone shows the right hour."""
    created = datetime.fromisoformat(_snapshot().to_dict()["created_at"])
    assert created.timestamp() == 1_700_000_000.0
    assert created.utcoffset() is not None


def test_the_event_of_a_snapshot_follows_its_status() -> None:
    """`progress` while running, else the terminal event that ends the stream."""
    assert _snapshot().event == "progress"
    assert _snapshot(status=JobStatus.PARTIAL).event == "partial"
    assert set(EVENT_NAMES) == set(JobStatus)


def test_a_failure_on_the_wire_is_named_to_a_person() -> None:
    """Its message is the sentence, its numbers are for programs."""
    failure = ChunkFailure(chunk_index=4, page_start=101, page_end=125, error="timeout")
    assert failure.to_dict() == {
        "chunk_index": 4,
        "page_start": 101,
        "page_end": 125,
        "message": "Chunk 5 (pages 101-125) failed: timeout",
    }


def test_a_snapshot_can_be_read_back_from_the_wire() -> None:
    """With everything in it; keys that are added later are left."""
    snapshot = _snapshot(
        eta=FinishTime.of(Eta(finish_at=100.0, earliest=90.0, latest=120.5)),
        waiting=Waiting(reason="It waits for a free worker.", since=moment(50.0), jobs_before=2, pages_before=900),
        work_pct=31.4,
        failures=(
            ChunkFailure(chunk_index=4, page_start=101, page_end=125, error="Document AI timeout"),
            PageShortfall(chunk_index=5, page=130, message="Page 130 could not be rendered."),
            ChunkFailure(chunk_index=6, page_start=7, page_end=7, error="boom", ranged=False),
            ChunkFailure(chunk_index=0, page_start=1, page_end=1, error="boom", ranged=False, alone=True),
        ),
        stalled=(StalledChunk(chunk_index=1, page_start=26, page_end=50, seconds=40.0, reason="it is alive"),),
        title="scan.pdf",
        ranged=False,
        finished_at=moment(130.25),
    )
    wire = json.loads(json.dumps({**snapshot.to_dict(), "new": 1}))
    assert JobSnapshot.from_dict(wire) == snapshot
