"""Celery's own canvas suite, without and with the extension's receivers: every test must end the same.

    pip install -e ".[dev,celery-suite]"
    python -m bench.celery_canvas [--sdist celery-5.7.0.tar.gz] [--only EXPRESSION] [--logs FOLDER]

Takes `t/integration/test_canvas.py` out of the source distribution of the Celery that is installed (from PyPI unless
`--sdist` names one), and runs it twice at once, each run on a Redis of its own: about 15 minutes. Exits with 1 where a
test ended otherwise with the extension than without.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import celery

from tasks.embedded.servers import LOOPBACK, die_with_parent, find_redis_server, free_port

ROOT = Path(__file__).resolve().parents[1]


def unpack(sdist: Path | None, folder: Path) -> Path:
    """Celery's tests, without its code: what is tested is what is installed."""
    if sdist is None:
        version = f"celery=={celery.__version__}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "celery", version]
        subprocess.run([*pip, "--dest", str(folder)], check=True)
        [sdist] = folder.glob("celery-*.tar.gz")
    with tarfile.open(sdist) as archive:
        root = archive.getnames()[0].split("/")[0]
        wanted = [m for m in archive.getmembers() if m.name.startswith((f"{root}/t/", f"{root}/pyproject.toml"))]
        archive.extractall(folder, members=wanted, filter="data")
    return folder / root


@contextlib.contextmanager
def plain_redis() -> Iterator[int]:
    """The port of a Redis without a password on loopback: some of Celery's tests cannot give one."""
    port = free_port()
    options = ["--bind", LOOPBACK, "--port", str(port), "--save", "", "--loglevel", "warning"]
    popen = subprocess.Popen([str(find_redis_server()), *options], preexec_fn=die_with_parent())
    try:
        yield port
    finally:
        popen.terminate()
        popen.wait()


def start(suite: Path, port: int, report: Path, *, extension: bool, only: str) -> subprocess.Popen[bytes]:
    """One run of the suite; Celery's tests want database 0."""
    url = f"redis://{LOOPBACK}:{port}/0"
    environ = {
        **os.environ,
        "TEST_BROKER": url,
        "TEST_BACKEND": url,
        "REDIS_HOST": LOOPBACK,
        "REDIS_PORT": str(port),
        "PYTHONPATH": f"{suite}{os.pathsep}{ROOT}",
    }
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "celery.contrib.pytest", f"--junitxml={report}"]
    argv += ["-p", "bench.celery_canvas_plugin"] if extension else []
    argv += ["-k", only] if only else []
    with report.with_suffix(".log").open("wb") as log:
        return subprocess.Popen([*argv, "t/integration/test_canvas.py"], cwd=suite, env=environ, stdout=log, stderr=log)


def outcomes(report: Path) -> dict[str, str]:
    """Test → passed, failed, error or skipped."""
    if not report.exists():
        raise SystemExit(f"no report was written:\n{report.with_suffix('.log').read_text()[-2000:]}")
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        ends = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[f"{case.get('classname')}::{case.get('name')}"] = min(ends, default="passed")
    return found


def main() -> int:
    """Run both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdist", type=Path)
    parser.add_argument("--only", default="", help="a pytest -k expression")
    parser.add_argument("--logs", type=Path, help="a folder to keep pytest's output in")
    options = parser.parse_args()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        suite = unpack(options.sdist, folder)
        reports, runs = {}, []
        for extension in (False, True):
            reports[extension] = folder / ("with.xml" if extension else "without.xml")
            port = stack.enter_context(plain_redis())
            runs.append(start(suite, port, reports[extension], extension=extension, only=options.only))
        for run in runs:
            run.wait()
        without, with_ours = outcomes(reports[False]), outcomes(reports[True])
        if options.logs:
            for report in reports.values():
                shutil.copy(report.with_suffix(".log"), options.logs)
    for name, found in (("without", without), ("with", with_ours)):
        counts = ", ".join(f"{count} {end}" for end, count in sorted(Counter(found.values()).items()))
        print(f"{name:>8} the extension: {counts}")
    differing = sorted(test for test in without.keys() | with_ours.keys() if without.get(test) != with_ours.get(test))
    for test in differing:
        print(f"differs: {test}: {without.get(test)} without, {with_ours.get(test)} with")
    print(
        f"Celery {celery.__version__}, {len(without)} tests, {len(differing)} differ, {time.monotonic() - began:.0f} s"
    )
    return int(bool(differing) or not without)


if __name__ == "__main__":
    sys.exit(main())
