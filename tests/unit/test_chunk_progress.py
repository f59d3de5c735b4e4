"""The story's own test cases, moved to this layout, and the tracker's other steps on the same mocks.

The tracker promises to work with any object that has the two awaitable methods, so mocks are the real thing here.
"""

from __future__ import annotations

from unittest.mock import AsyncMock, MagicMock, patch

import pytest

from celery_progress_ext import ChunkProgress, ChunkProgressTracker, JobStatus, format_chunk_failure_message


@pytest.fixture
def mock_chunk_service() -> MagicMock:
    service = MagicMock()
    service.get_chunk_progress = AsyncMock()
    return service


@pytest.fixture
def mock_job_tracker() -> MagicMock:
    tracker = MagicMock()
    tracker.update_job_status = AsyncMock()
    return tracker


class TestChunkProgressTracker:
    @pytest.mark.asyncio
    async def test_update_chunk_progress_calculates_percentage(
        self, mock_chunk_service: MagicMock, mock_job_tracker: MagicMock
    ) -> None:
        # Arrange
        mock_chunk_service.get_chunk_progress.return_value = ChunkProgress(
            total=17,
            pending=5,
            processing=1,
            completed=10,
            failed=1,
        )
        tracker = ChunkProgressTracker(
            job_tracker=mock_job_tracker,
            chunk_service=mock_chunk_service,
        )

        # Act
        await tracker.update_chunk_progress(
            job_id="job-123",
            document_id="doc-456",
            matter_id="matter-789",
        )

        # Assert - 10 completed out of 17 = 58%
        mock_job_tracker.update_job_status.assert_called_once()
        call_args = mock_job_tracker.update_job_status.call_args
        assert call_args.kwargs["progress_pct"] == 58
        assert "10/17" in call_args.kwargs["stage"]


class TestFormatChunkFailure:
    def test_formats_failure_with_page_range(self) -> None:
        result = format_chunk_failure_message(
            chunk_index=4,  # 0-indexed
            page_start=101,
            page_end=125,
            error_message="Document AI timeout",
        )

        assert result == "Chunk 5 (pages 101-125) failed: Document AI timeout"


@pytest.mark.asyncio
async def test_progress_is_broadcast_with_the_counts(
    mock_chunk_service: MagicMock, mock_job_tracker: MagicMock
) -> None:
    """Watchers get the percent, the stage and the three counts."""
    mock_chunk_service.get_chunk_progress.return_value = ChunkProgress(
        total=17, pending=10, processing=2, completed=5, failed=0
    )
    tracker = ChunkProgressTracker(job_tracker=mock_job_tracker, chunk_service=mock_chunk_service)
    with patch("celery_progress_ext.story.broadcast_job_progress") as broadcast:
        await tracker.update_chunk_progress(job_id="j", document_id="d", matter_id="m")
    broadcast.assert_called_once_with(
        matter_id="m",
        job_id="j",
        progress_pct=29,
        stage="Processing chunk 5/17",
        metadata={"chunks_completed": 5, "chunks_total": 17, "chunks_failed": 0},
    )


@pytest.mark.asyncio
async def test_the_merge_is_told_as_its_own_stage(mock_chunk_service: MagicMock, mock_job_tracker: MagicMock) -> None:
    """`Merging OCR results`, while the job is still PROCESSING."""
    tracker = ChunkProgressTracker(job_tracker=mock_job_tracker, chunk_service=mock_chunk_service)
    await tracker.start_merge_stage(document_id="d", job_id="j")
    kwargs = mock_job_tracker.update_job_status.call_args.kwargs
    assert kwargs["stage"] == "Merging OCR results"
    assert kwargs["status"] is JobStatus.PROCESSING


@pytest.mark.asyncio
async def test_without_a_job_there_is_nothing_to_do(mock_chunk_service: MagicMock, mock_job_tracker: MagicMock) -> None:
    """`job_id=None` degrades gracefully: a log line, no exception."""
    tracker = ChunkProgressTracker(job_tracker=mock_job_tracker, chunk_service=mock_chunk_service)
    await tracker.update_chunk_progress(job_id=None, document_id="d", matter_id="m")
    await tracker.start_merge_stage(document_id="d", job_id=None)
    mock_job_tracker.update_job_status.assert_not_called()


@pytest.mark.asyncio
async def test_a_failure_that_cannot_be_recorded_is_a_log_line(mock_chunk_service: MagicMock) -> None:
    """A chunk service with the two contract methods alone cannot fail a chunk; that must not raise."""
    tracker = ChunkProgressTracker(job_tracker=MagicMock(), chunk_service=mock_chunk_service)
    await tracker.report_chunk_failure(chunk_id="job_x.c4", error_message="Document AI timeout")
