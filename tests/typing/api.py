"""What a type checker says of a user's own code. Checked by mypy, never run.

Each line that must be an error is ignored for that very error; strict mypy reports an ignore that nothing needs, so a
signature that grows loose fails here.
"""

from collections.abc import AsyncGenerator, Iterator
from datetime import datetime
from typing import assert_type

from celery import Celery
from celery.canvas import Signature

from celery_progress_ext import (
    CeleryProgress,
    ChunkProgress,
    JobSnapshot,
    JobStatus,
    JobTrackingService,
    NotPublished,
    OCRChunkService,
    ProgressError,
    Superseded,
    TrackedJob,
    __version__,
    tracked_chord,
    tracked_group,
)

app = Celery("typing")
progress = CeleryProgress(app)
header: list[Signature] = []
body: Signature = Signature()

chord = tracked_chord(
    header,
    body,
    matter_id="m",
    document_id=7,
    ranges=[(1, 25)],
    unit="rows",
    on_chunk_failure="fail",
    metadata={"filename": "a.pdf"},
)
tracked_chord(header, body, matter_id="m", document_id="d", on_chunk_failur="fail")  # type: ignore[call-overload]
tracked_chord(header, body, matter_id="m", document_id="d", on_chunk_failure="retry")  # type: ignore[call-overload]
tracked_chord(header, body)
tracked_chord(header, body, owner="m", subject=7, ranges=[range(25), (25, 49)], merge_message="Importing the totals")
tracked_chord(header, body, matter_id="m", document_id="d", ranges=["1-25"])  # type: ignore[list-item]
tracked_chord(header, body, sizes=["many"])  # type: ignore[list-item]
tracked_chord(header, body, merge_mesage="Importing")  # type: ignore[call-overload]
assert_type(tracked_group(header, owner="m", sizes=[40], unit="rows").apply_async(), TrackedJob)
tracked_group(header, merge_message="Importing")  # type: ignore[call-overload]
assert_type(progress.track(body, subject="import-7", unit="rows", size=40).apply_async(), TrackedJob)
progress.track(body, ranges=[(1, 2)])  # type: ignore[call-arg]

job = chord.apply_async()
assert_type(job, TrackedJob)
assert_type(job.snapshot(), JobSnapshot)
assert_type(job.watch(), Iterator[JobSnapshot])
assert_type(job.awatch(), AsyncGenerator[JobSnapshot, None])
assert_type(job.snapshot().status, JobStatus)
assert_type(job.snapshot().created_at, datetime)
assert_type(job.snapshot().owner, str | None)
assert_type(progress.job("job_x"), TrackedJob)
assert_type(progress.bar(job, using="tqdm"), JobSnapshot)
progress.bar(job, using="alive")  # type: ignore[arg-type]
assert_type(__version__, str)
job.watch(timout=3)  # type: ignore[call-arg]
progress.report(None, don=1)  # type: ignore[call-arg]


def errors() -> list[type[Exception]]:
    """Each can be caught by its name, and all but a task's own control flow by one."""
    return [ProgressError, NotPublished, Superseded]


async def by_hand(jobs: JobTrackingService, chunks: OCRChunkService) -> None:
    """The services' async methods have the signatures of the synchronous ones."""
    assert_type(await chunks.get_chunk_progress("d"), ChunkProgress)
    assert_type(await jobs.update_job_status(job_id="j", status=JobStatus.PROCESSING, stage="s"), JobSnapshot | None)
    await jobs.update_job_status(job_id="j", status="PROCESSING")  # type: ignore[arg-type]
    await jobs.update_job_status(job_id="j", status=JobStatus.PROCESSING, stag="s")  # type: ignore[call-arg]
