"""What the streams need where gevent has patched the process: nothing that waits may hold up the other greenlets."""

from __future__ import annotations

import importlib.util
import os
import select
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from celery_progress_ext.sse.sockets import Poller

#: Pauses between tries while another process holds SQLite's lock, doubled from the first to the last. Seconds.
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.002, 0.05


def patched() -> bool:
    """Whether gevent's monkey patching is in force."""
    if "gevent" not in sys.modules:
        return False
    from gevent import monkey

    return bool(monkey.is_module_patched("socket"))


def install() -> None:
    """Make the database drivers give way to other greenlets while they wait; nothing without gevent's patches.

    psycopg2 waits in C for the server, sqlite3 for another process's lock: either freezes every stream of the process.
    May be called again.
    """
    if not patched():
        return
    _patch_sqlite3()
    if importlib.util.find_spec("psycopg2") is not None:
        from psycopg2 import extensions

        if extensions.get_wait_callback() is None:
            extensions.set_wait_callback(_wait_for_postgres)


def make_poller() -> Poller:
    """A ``select.epoll``, which gevent takes away."""
    if patched():
        from gevent import monkey

        made: Poller = monkey.get_original("select", "epoll")()
        return made
    return select.epoll()


def wait_readable(fd: int, seconds: float) -> None:
    """Wait until ``fd`` can be read, letting other greenlets run."""
    from gevent import socket

    with suppress(TimeoutError):
        socket.wait_read(fd, timeout=seconds, timeout_exc=TimeoutError())


def can_hand_over(environ: Mapping[str, Any]) -> bool:
    """Whether the request's server lets go of its socket: gunicorn with its gevent worker, for plain HTTP/1."""
    if not patched() or not str(environ.get("SERVER_SOFTWARE", "")).startswith("gunicorn/"):
        return False
    from gevent import socket

    # Not a TLS socket, which is a subclass.
    plain = type(environ.get("gunicorn.socket")) is socket.socket
    return plain and environ.get("SERVER_PROTOCOL") in ("HTTP/1.0", "HTTP/1.1")


def handed_over(environ: Mapping[str, Any]) -> tuple[int, bool] | None:
    """A duplicate of the request's socket and whether its body is chunked; None where the server keeps its socket.

    After :class:`BrokenPipeError` from the response gunicorn takes the client for gone: it closes its own descriptor
    without writing anything more, and its greenlet ends.
    """
    if not can_hand_over(environ):
        return None
    fd = os.dup(environ["gunicorn.socket"].fileno())
    os.set_blocking(fd, False)
    return fd, environ["SERVER_PROTOCOL"] == "HTTP/1.1"


def _wait_for_postgres(connection: Any, timeout: float | None = None) -> None:
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


def _patch_sqlite3() -> None:
    if isinstance(sqlite3.connect, partial):
        return
    sqlite3.connect = sqlite3.dbapi2.connect = partial(_connect, sqlite3.connect)


def _connect(connect: Callable[..., Any], *args: Any, timeout: float = 5.0, factory: Any = None, **options: Any) -> Any:
    if factory is not None:
        return connect(*args, timeout=timeout, factory=factory, **options)
    made = connect(*args, timeout=0, factory=_Connection, **options)
    made.busy_seconds = timeout
    return made


class _Connection(sqlite3.Connection):
    """Waits for locks in Python, where gevent can switch, and not in SQLite's busy handler."""

    busy_seconds = 0.0

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or _Cursor)

    def execute(self, *args: Any) -> Any:
        return self.cursor().execute(*args)

    def commit(self) -> None:
        _patiently(self, super().commit)


class _Cursor(sqlite3.Cursor):
    def execute(self, *args: Any) -> Any:
        connection: Any = self.connection
        run = partial(super().execute, *args)
        # Inside a transaction a lock that is held is a deadlock, unless it ends with this statement.
        if connection.in_transaction and not str(args[0]).lstrip()[:6].upper().startswith(("COMMIT", "END")):
            return run()
        return _patiently(connection, run)


def _patiently(connection: Any, run: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + connection.busy_seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return run()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, _LAST_PAUSE_SECONDS)
