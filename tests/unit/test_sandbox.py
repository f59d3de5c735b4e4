"""Processes that may die: they take no more memory than they may, and do not outlive who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasks.pdf import sandbox
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]

HUNGRY = """
from tasks.pdf.sandbox import confine
confine(memory_bytes=200 << 20)
taken = []
try:
    while True:
        taken.append(bytearray(10 << 20))
except MemoryError:
    print(len(taken) * 10)
"""

BUSY = """
from tasks.pdf.sandbox import confine
confine()
print("up", flush=True)
while True:
    pass
"""

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_child_gets_no_more_memory_than_it_may() -> None:
    """What it allocates counts, not what is mapped for it."""
    done = subprocess.run([sys.executable, "-c", HUNGRY], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert 100 <= int(done.stdout) <= 200


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere its CPU allowance ends it")
def test_a_child_dies_with_who_started_it() -> None:
    """Also where that was killed, and the child is busy."""
    argv = [sys.executable, "-c", PARENT, BUSY]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(
        lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE,
        what="the child's end",
    )


def test_a_large_file_may_take_more_memory_to_be_drawn(tmp_path: Path) -> None:
    """The scan of a plan is large, a bomb is small; there is a limit for both."""
    path = tmp_path / "in.pdf"
    path.write_bytes(b"x" * 1000)
    small = sandbox.memory_to_draw(path)
    assert sandbox.MEMORY_BYTES < small < sandbox.MEMORY_BYTES + 100_000
    os.truncate(path, 20_000_000)
    assert small + 300_000_000 < sandbox.memory_to_draw(path)
    os.truncate(path, 10_000_000_000)
    assert sandbox.memory_to_draw(path) < 1.4e9
