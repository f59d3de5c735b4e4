"""Through how many rooms something goes: a chunk's completion, and a page from its upload to the merge.

    python -m bench.rooms [--show]

A room is a folder, as CONTRIBUTING lists them, or a module that stands beside these; a return is a call into a room
that was left before. What only computes or guards (the pure core, log lines, soft limits) is used everywhere and is no
room of its own. The same is printed with each module counted as a room.

A completion is what ``task_success`` starts in a prefork child. A page's rooms are those of the upload's request, of
its chunk's task and of the merge, together. Each is measured on a second job: what a first one loads and connects is
not in it. ``--show`` prints the ways.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.room_trace import ROOT, Trace, write
from tasks.embedded.servers import RedisServer
from tasks.sample import make_sample

#: The modules of the library that are used from every room.
_EVERYWHERE = {
    f"celery_progress_ext/{name}.py"
    for name in ("chunks", "eta", "history", "ids", "jobs", "log", "soft_limits", "stages", "waiting")
}
#: What a completion and a page may pass through.
COMPLETION_ROOMS, COMPLETION_RETURNS, PAGE_ROOMS = 10, 12, 30
_KEY = "bench"


def rooms(calls: Sequence[str]) -> list[str]:
    """The room of each call."""
    return [_room(call) for call in calls if call not in _EVERYWHERE]


def _room(path: str) -> str:
    folder = str(Path(path).parent)
    return path if folder == "celery_progress_ext" else folder


def way(calls: Sequence[str]) -> list[str]:
    """The rooms in order, each as often as it is entered."""
    return [room for room, _ in itertools.groupby(calls)]


def returns(calls: Sequence[str]) -> int:
    """How often a room is entered that was left before."""
    entered = way(calls)
    return len(entered) - len(set(entered))


def _wait(ready: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit("it did not come to an end in time")
        time.sleep(0.05)


def _run_jobs(folder: Path) -> None:
    """Two jobs of each kind, the web's part in this process, the rest in a worker."""
    from celery_progress_ext import tracked_chord
    from tasks.celery_app import app, progress
    from web import create_app, streams

    progress.migrate()
    web = create_app()
    argv = [sys.executable, "-m", "celery", "-A", "bench.room_trace", "worker", "-c", "1", "-l", "WARNING"]
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen([*argv, "--without-gossip", "--without-mingle"], stdout=log, stderr=log, cwd=ROOT)
    try:
        make_sample(folder / "sample.pdf", pages=1, dpi=150)
        sample = (folder / "sample.pdf").read_bytes()
        for _ in range(2):
            form = {"matter_id": "m", "file": (io.BytesIO(sample), "a.pdf")}
            trace = Trace()
            client = web.test_client()
            with trace.recording():
                answer = client.post(
                    "/api/documents",
                    data=form,
                    content_type="multipart/form-data",
                    headers={"Authorization": f"Bearer {_KEY}"},
                )
            write("upload", trace)
            job = progress.job(answer.get_json()["job_id"])
            _wait(lambda job=job: job.snapshot().status.terminal)  # type: ignore[misc]
        for _ in range(2):
            chunks = [app.signature("noop.chunk", args=(number,)) for number in range(3)]
            body = app.signature("noop.merge")
            job = tracked_chord(chunks, body, matter_id="m", document_id="d", app=app).apply_async()
            _wait(lambda job=job: job.snapshot().status.terminal)  # type: ignore[misc]
            time.sleep(1.0)  # the completions of the next job are not committed together with these
    finally:
        streams.close(web)
        worker.terminate()
        worker.wait(30)


def measure() -> dict[str, list[list[str]]]:
    """The calls of each kind of trace, in the order in which they were made."""
    with tempfile.TemporaryDirectory() as name, RedisServer() as redis:
        folder = Path(name)
        os.environ |= {
            "CELERY_BROKER_URL": redis.database_url(0),
            "CELERY_RESULT_BACKEND": redis.database_url(1),
            "PROGRESS_DATABASE_URL": f"sqlite:///{folder / 'progress.db'}",
            "PROGRESS_API_KEYS": json.dumps({_KEY: ["*"]}),
            "DOCUMENTS_URL": (folder / "documents").as_uri(),
            "ROOM_TRACES": str(folder / "traces"),
            "PYTHONWARNINGS": "ignore",
        }
        try:
            _run_jobs(folder)
        except BaseException:
            print((folder / "worker.log").read_text()[-3000:], file=sys.stderr)
            raise
        found: dict[str, list[list[str]]] = {}
        for line in (folder / "traces").read_text().splitlines():
            each = json.loads(line)
            found.setdefault(each["kind"], []).append(each["calls"])
        return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the ways")
    options = parser.parse_args()
    found = measure()
    # Of the second job: its first completion is committed by itself, the others wait for each other.
    completion = found["completion"][3]
    page = [call for kind in ("upload", "tasks.ocr_chunk", "tasks.merge_document") for call in found[kind][1]]
    print(
        f"completion: {len(set(rooms(completion)))} rooms (target {COMPLETION_ROOMS}), {returns(rooms(completion))}"
        f" returns (target {COMPLETION_RETURNS}), {len(completion)} calls; with each module a room:"
        f" {len(set(completion))} and {returns(completion)}"
    )
    print(
        f"page, from upload to merge: {len(set(rooms(page)))} rooms (target {PAGE_ROOMS}); with each module a room:"
        f" {len(set(page))}"
    )
    if options.show:
        print("-- completion", *way(rooms(completion)), sep="\n")
        print("-- page", *sorted(set(page)), sep="\n")


if __name__ == "__main__":
    main()
