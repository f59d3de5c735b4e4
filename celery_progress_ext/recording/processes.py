"""Which process works on a chunk, so that another on the same machine can see that it is gone."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from pathlib import Path


def process_name() -> str:
    """This process, as a chunk's row names the one that works on it: ``host:pid:place.start``.

    Two processes may share a host name and a pid without sharing either (containers with a fixed host name), and a pid
    is used again: ``place`` is the machine's boot and its PID namespace, ``start`` when the process was started.
    """
    return _name_of(os.getpid())


def is_gone(name: str) -> bool:
    """Whether the process of this name was in this one's PID namespace, and is gone. False where that is not known."""
    host, _, rest = name.partition(":")
    pid, _, identity = rest.partition(":")
    place, _, start = identity.partition(".")
    if host != socket.gethostname() or not place or place != _place() or not pid.isdigit():
        return False
    return _start_of(int(pid)) != start


@lru_cache(maxsize=4)
def _name_of(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{_place()}.{_start_of(pid)}"


@lru_cache(maxsize=1)
def _place() -> str:
    """Empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot[:8]}-{os.stat('/proc/self/ns/pid').st_ino:x}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """In clock ticks since the boot; empty where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # Behind the command's name, which may have anything in it; a zombie is gone.
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]
