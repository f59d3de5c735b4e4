"""How soon a reader knows: from the upload's answer to the first event, and from a chunk's completion to its event.

    python -m bench.latency [--pages 16] [--chunk-pages 2]

Starts the whole service (`python -m tasks up`), uploads a generated scan and reads the job's stream as a browser does.
A completion's time is the database's `finished_at` of the chunk, written by its `task_success` receiver.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tasks.sample import make_sample

KEY = "bench-key"


def events(client: httpx.Client, url: str) -> Iterator[tuple[float, dict[str, Any]]]:
    """The snapshots of a stream, each with the time at which it was read."""
    with client.stream("GET", url, timeout=120) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data:"):
                yield time.time(), json.loads(line.removeprefix("data:"))


def start(folder: Path, chunk_pages: int) -> tuple[subprocess.Popen[str], str]:
    """The service, ready; its process and the web's URL."""
    env = {
        **os.environ,
        "PROGRESS_API_KEYS": json.dumps({KEY: ["*"]}),
        "OCR_CHUNK_PAGES": str(chunk_pages),
        "PYTHONUNBUFFERED": "1",
    }
    argv = [sys.executable, "-m", "tasks", "up", "--port", "0", "--data-dir", str(folder / "var")]
    popen = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert popen.stdout is not None
    for line in popen.stdout:
        if found := re.search(r"web: (http://[\d.]+:\d+)/", line):
            # Its pipe must not fill up while we measure.
            subprocess.Popen(["cat"], stdin=popen.stdout, stdout=subprocess.DEVNULL)
            return popen, found[1]
    raise SystemExit("the service did not start")


def measure(base: str, scan: Path) -> None:
    """Upload, read the stream to its end, compare with the rows, print."""
    with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
        with scan.open("rb") as file:
            form = {"matter_id": "bench"}
            answer = client.post("/api/documents", data=form, files={"file": ("scan.pdf", file, "application/pdf")})
        answer.raise_for_status()
        answered = time.time()
        job_id = answer.json()["job_id"]
        first: float | None = None
        seen_completed: dict[int, float] = {}
        for at, snapshot in events(client, f"/api/jobs/{job_id}/events"):
            first = first if first is not None else at
            for count in range(1, snapshot["chunks"]["completed"] + 1):
                seen_completed.setdefault(count, at)
        rows = client.get(f"/api/jobs/{job_id}/chunks").json()
    finished = sorted(datetime.fromisoformat(row["finished_at"]).timestamp() for row in rows)
    delays = sorted(seen_completed[place] - at for place, at in enumerate(finished, 1))
    assert first is not None
    print(f"upload's answer to the first event: {first - answered:.3f} s")
    print(
        f"completion to its event, {len(delays)} chunks: median {statistics.median(delays) * 1000:.0f} ms,"
        f" worst {delays[-1] * 1000:.0f} ms"
    )


def main() -> None:
    """Start, measure, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=16)
    parser.add_argument("--chunk-pages", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.pdf"
        make_sample(scan, pages=options.pages)
        popen, base = start(Path(folder), options.chunk_pages)
        try:
            measure(base, scan)
        finally:
            popen.send_signal(signal.SIGINT)
            popen.wait(60)


if __name__ == "__main__":
    main()
