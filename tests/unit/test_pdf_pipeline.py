"""From a document to a job: page ranges, and that a submission that fails leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.limits import chunk_time_limits, merge_time_limits
from tasks.page_results import chunk_ranges
from tasks.sample import make_sample

CHECKOUT = Path(__file__).parents[2]

SCRIPT = """
import json, os, sys
from pathlib import Path
from tasks.celery_app import app, progress
from tasks.pipeline import options_from, submit
app.conf.broker_connection_retry = False
app.conf.task_publish_retry = False
app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 0}}
progress.migrate()
try:
    submit(Path(sys.argv[1]), matter_id="m1", filename="in.pdf", document_id=sys.argv[2],
           options=options_from({"mode": sys.argv[3]}))
    error = None
except Exception as raised:
    error = type(raised).__name__
engines = [name for name in ("tesserocr", "pypdfium2", "pikepdf", "PIL", "numpy", "onnxruntime") if name in sys.modules]
jobs = [job.status for job in progress.jobs.list()]
print(json.dumps({"error": error, "engines": engines, "jobs": jobs}))
"""


def submit_without_broker(tmp_path: Path, path: Path, document_id: str = "doc_1", mode: str = "skip") -> dict[str, Any]:
    """Submit in a process of its own, where nobody listens at the broker's port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening: connections are refused
        url = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(path), document_id, mode],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(CHECKOUT),
                "CELERY_BROKER_URL": url,
                "CELERY_RESULT_BACKEND": url,
                "PROGRESS_DATABASE_URL": f"sqlite:///{tmp_path / 'progress.db'}",
                "DOCUMENTS_URL": (tmp_path / "documents").as_uri(),
            },
            capture_output=True,
            text=True,
            timeout=90,
        )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def kept_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "documents").rglob("*") if path.is_file()]


@given(st.integers(1, 5000), st.integers(1, 300))
def test_ranges_cover_each_page_once(pages: int, size: int) -> None:
    """In order, none longer than asked, only the last one shorter."""
    ranges = chunk_ranges(pages, size)
    assert [page for first, last in ranges for page in range(first, last + 1)] == list(range(1, pages + 1))
    assert {last - first + 1 for first, last in ranges[:-1]} <= {size}
    assert 1 <= ranges[-1][1] - ranges[-1][0] + 1 <= size


@pytest.mark.parametrize(("pages", "size"), [(0, 25), (10, 0), (-1, 5)])
def test_there_are_no_ranges_of_nothing(pages: int, size: int) -> None:
    """Rather an error than an empty chord."""
    with pytest.raises(ValueError, match="no chunks"):
        chunk_ranges(pages, size)


def test_a_task_is_interrupted_before_it_is_killed() -> None:
    """And a chunk may take all of every page's time."""
    chunk, merge = chunk_time_limits(25, 120), merge_time_limits(5000)
    assert 25 * 120 < chunk.soft < chunk.hard
    assert merge.soft < merge.hard


def test_a_refused_document_leaves_nothing_behind(tmp_path: Path) -> None:
    """It is checked before anything is kept."""
    path = tmp_path / "in.pdf"
    path.write_bytes(b"no PDF")
    answer = submit_without_broker(tmp_path, path)
    assert (answer["error"], answer["jobs"], kept_files(tmp_path)) == ("Refused", [], [])


def test_a_job_is_kept_while_the_broker_is_away(tmp_path: Path) -> None:
    """It is started once the broker is back, and finds its original then."""
    make_sample(tmp_path / "in.pdf", pages=2, dpi=72)
    answer = submit_without_broker(tmp_path, tmp_path / "in.pdf")
    assert (answer["error"], answer["jobs"]) == (None, ["PENDING"])
    assert len(kept_files(tmp_path)) == 1


def test_a_submission_imports_no_engine_and_no_pdf_library(tmp_path: Path) -> None:
    """The web process only names the tasks."""
    make_sample(tmp_path / "in.pdf", pages=1, dpi=72)
    assert submit_without_broker(tmp_path, tmp_path / "in.pdf")["engines"] == []


@pytest.mark.parametrize(("document_id", "mode"), [("../../etc", "skip"), ("doc_1", "perhaps")])
def test_what_cannot_be_used_is_refused_at_once(document_id: str, mode: str, tmp_path: Path) -> None:
    """Before anything is kept."""
    make_sample(tmp_path / "in.pdf", pages=1, dpi=72)
    answer = submit_without_broker(tmp_path, tmp_path / "in.pdf", document_id, mode)
    assert (answer["error"], answer["jobs"], kept_files(tmp_path)) == (
        "ValueError" if mode == "skip" else "InvalidOption",
        [],
        [],
    )
