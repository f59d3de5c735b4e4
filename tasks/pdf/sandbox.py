"""Processes that may die: untrusted files are parsed and rendered only in these.

A child limits itself before it touches the file, so that a bomb costs one child and one clear message.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

#: What a child may allocate: with the processes around it, a job stays below 1 GB. A rendered page takes 60 MB at most;
#: the rest is what decoding its images may take.
MEMORY_BYTES = 544 << 20
#: So much more for each byte of a file whose pages are drawn, and at most: a plan's scan is large, a bomb is small.
_MEMORY_PER_BYTE, _MOST_MEMORY_BYTES = 16, 1280 << 20
#: Address space beyond that, for libraries and for the file itself, which is mapped; none of it is allocated.
_MAPPED_BYTES = 3 << 30

_PR_SET_PDEATHSIG = 1
_CHECKOUT = Path(__file__).resolve().parents[2]


def spawn(module: str, *args: str, stdin: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start ``python -m module args…`` with its stdout on a pipe and its complaints dropped.

    It leads a session of its own: a Ctrl-C in the terminal is for the worker, which finishes its chunk.
    """
    search_path = os.pathsep.join(filter(None, [str(_CHECKOUT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", module, *args],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": search_path},
        start_new_session=True,
    )


def memory_to_draw(path: Path) -> int:
    """What a child may allocate that draws the pages of this file, in bytes."""
    return min(MEMORY_BYTES + _MEMORY_PER_BYTE * path.stat().st_size, _MOST_MEMORY_BYTES)


def confine(*, memory_bytes: int = MEMORY_BYTES) -> None:
    """In the child, first: limit what it may allocate, leave no core file, die of a spent CPU allowance.

    It dies with the process that started it, too: a worker that was killed leaves no renderer at work behind.
    """
    _die_with_parent()
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes + _MAPPED_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)


def _die_with_parent() -> None:
    """On Linux; elsewhere the CPU allowance ends what the parent does not."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def allow_cpu(seconds: float) -> None:
    """In the child, before each piece of work: the kernel kills this process after so much more CPU time.

    The parent watches the wall clock as well; this one also holds when the parent is gone.
    """
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, hard))
