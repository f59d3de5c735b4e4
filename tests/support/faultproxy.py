"""A TCP proxy on loopback that cuts, stalls and delays; one thread per direction."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

#: RST instead of FIN: the other side sees a crash, not a goodbye.
_RESET = struct.pack("ii", 1, 0)


class _Mode(enum.Enum):
    UP = "pass everything on"
    DOWN = "reset whoever connects"
    STALLED = "accept, pass nothing on"
    DEAF = "pass on what is asked, drop what is answered"


class FaultProxy:
    """Stands between a client and ``upstream`` (host, port); a context manager. Starts out transparent."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        #: Connections taken so far.
        self.accepted = 0
        #: Bytes passed on so far, both ways.
        self.passed = 0
        self._mode = _Mode.UP
        self._latency = 0.0
        self._reset_at: int | None = None
        self._connections: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @classmethod
    def before(cls, url: str) -> FaultProxy:
        """A proxy to the server that ``url`` names."""
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        return cls((parts.hostname, parts.port))

    def url(self, url: str) -> str:
        """The same URL, by way of this proxy."""
        parts = urlsplit(url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self.port}").geturl()

    def up(self) -> None:
        """Pass everything on again; a connection that lost an answer is reset."""
        if self._mode is _Mode.DEAF:
            self.cut()
        self._mode, self._latency, self._reset_at = _Mode.UP, 0.0, None
        self._flowing.set()

    def down(self) -> None:
        """Cut every connection and let no new one through."""
        self._mode = _Mode.DOWN
        self._flowing.set()
        self.cut()

    def stall(self) -> None:
        """Keep every connection open, and silent."""
        self._mode = _Mode.STALLED
        self._flowing.clear()

    def deafen(self) -> None:
        """Let the server do what it is asked to, and lose its answers: a COMMIT that took effect, and nobody knows."""
        self._mode = _Mode.DEAF

    def slow(self, seconds: float) -> None:
        """Hold back every read by so long."""
        self._latency = seconds

    def reset_after(self, size: int) -> None:
        """Cut every connection once ``size`` more bytes have passed."""
        self._reset_at = self.passed + size

    def cut(self) -> None:
        """Reset every open connection; new ones are let through."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for pair in connections:
            for sock in pair:
                _reset(sock)

    def close(self) -> None:
        """End it, with everything that goes through it."""
        self._closed.set()
        self._flowing.set()
        # Closing alone does not wake a thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self._mode is _Mode.DOWN:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self.upstream, 5)
            except OSError:
                _reset(client)
                continue
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(None)
            with self._lock:
                self._connections.add((client, server))
            for source, target, answers in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, target, answers), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while chunk := source.recv(65536):
                if self._latency:
                    self._closed.wait(self._latency)
                self._flowing.wait()
                if answers and self._mode is _Mode.DEAF:
                    continue
                if self._reset_at is not None and self.passed + len(chunk) > self._reset_at:
                    self._reset_at = None
                    self.cut()
                    return
                self.passed += len(chunk)
                target.sendall(chunk)
        except OSError:
            pass
        finally:
            for sock in (source, target):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            with self._lock:
                self._connections -= {(source, target), (target, source)}


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
