"""The bench of finish times: it drives the product's own code, and knows only what the product knows."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from bench.eta import learned, ours, score_ours
from bench.timed_jobs import SCENARIOS, recorded, simulate
from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.kinds import Kind


def test_a_simulated_job_is_seen_as_its_rows_would_be() -> None:
    """Its counts add up, and only grow, from before the first start to the end."""
    job = simulate(SCENARIOS["unequal"], random.Random(1))
    seen = [job.rows(job.end * step / 40) for step in range(41)]
    for row, chunks in seen:
        assert row.chunks.completed == sum(chunk.status is ChunkStatus.COMPLETED for chunk in chunks)
        assert row.pages_done == sum(chunk.pages_done for chunk in chunks)
    pages = [row.pages_done for row, _ in seen]
    assert pages == sorted(pages)
    assert (pages[0], pages[-1]) == (0, seen[-1][0].pages_total)


def test_past_jobs_speak_before_the_first_page() -> None:
    """Without any, there is no estimate then."""
    rng = random.Random(1)
    jobs = [simulate(SCENARIOS["unequal"], rng) for _ in range(3)]
    kind = Kind()
    for job in jobs[:2]:
        kind = learned(kind, job)
    assert ours(jobs[2], 0.5, Kind()) is None
    assert ours(jobs[2], 0.5, kind) is not None
    assert score_ours(jobs[2], kind).silent == 0


def test_a_recording_is_read_with_its_killed_attempts(tmp_path: Path) -> None:
    """What the first attempt had done is shown while the second goes on; then it is done."""
    killed = {"start": 0.0, "pages": [1.0, 2.0], "end": None, "status": "killed"}
    second = {"start": 5.0, "pages": [6.0, 7.0, 8.0], "end": 8.0, "status": "completed"}
    line = {
        "file": "scan_0_3.pdf", "mode": "force", "kind": "killed", "status": "COMPLETED", "workers": 1,
        "merge_start": 8.0, "end": 9.0, "chunks": [{"size": 3, "attempts": [killed, second]}],
    }  # fmt: skip
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line))
    (recording,) = recorded(tmp_path / "jobs.jsonl", lambda *_: [3.0])
    assert recording.document == "scan"
    pages = [recording.job.rows(now)[0].pages_done for now in (0.5, 2.5, 5.5, 8.5)]
    assert pages == [0, 2, 2, 3]
    assert recording.job.chunks[0].cost == pytest.approx(3.0)
