"""Who works on a chunk, so that another process on the same machine can see that it is gone."""

from __future__ import annotations

import os
import subprocess
import sys

from celery_progress_ext.recording.processes import is_gone, process_name
from tests.support.processes import ROOT

_NAME = "from celery_progress_ext.recording.processes import process_name; print(process_name(), flush=True); input()"


def test_a_process_that_lives_is_not_gone_and_one_that_died_is() -> None:
    """Known by its name alone."""
    assert not is_gone(process_name())
    with subprocess.Popen(
        [sys.executable, "-c", _NAME], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        assert not is_gone(name)
        other.kill()
        other.wait()
        assert is_gone(name)


def test_a_process_of_another_pid_namespace_is_not_judged() -> None:
    """G21: two containers may share a host name, and have the same pids."""
    host, pid, identity = process_name().split(":")
    place, start = identity.split(".")
    assert is_gone(f"{host}:{pid}:{place}.{int(start) + 1}")
    assert not is_gone(f"{host}:{pid}:{place}x.{int(start) + 1}")
    assert not is_gone(f"elsewhere:{pid}:{place}.{int(start) + 1}")


def test_a_name_of_before_is_not_judged() -> None:
    """It had host and pid alone: its lease decides."""
    assert not is_gone(f"{process_name().split(':')[0]}:{os.getpid()}")
    assert not is_gone("")
