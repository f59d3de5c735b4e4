"""Under gevent, PostgreSQL's driver waits like everybody else: without this a slow query freezes every stream."""

from __future__ import annotations

import importlib.util
from typing import Any


def install() -> None:
    """Make psycopg2 give way to other greenlets while it waits; nothing without gevent or psycopg2."""
    if importlib.util.find_spec("gevent") is None or importlib.util.find_spec("psycopg2") is None:
        return
    from gevent import monkey

    if not monkey.is_module_patched("socket"):
        return
    from psycopg2 import extensions

    extensions.set_wait_callback(_wait)


def _wait(connection: Any, timeout: float | None = None) -> None:
    from gevent import socket
    from psycopg2 import OperationalError, extensions

    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return
        if state == extensions.POLL_READ:
            socket.wait_read(connection.fileno(), timeout=timeout)
        elif state == extensions.POLL_WRITE:
            socket.wait_write(connection.fileno(), timeout=timeout)
        else:
            raise OperationalError(f"unexpected answer of poll: {state!r}")
