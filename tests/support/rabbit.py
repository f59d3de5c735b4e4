"""A RabbitMQ on loopback, from the machine's package (Debian's ``rabbitmq-server``)."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote
from uuid import uuid4

from tasks.embedded.servers import LOOPBACK, ServerNotFound, free_port
from tests.support.processes import TestProcess

#: Debian's wrapper in /usr/sbin runs it as another user, on the machine's own data; this is the script behind it.
_PLACES = ("/usr/lib/rabbitmq/bin", None)
#: What the node logs when it takes connections.
_READY = "Server startup complete"


def _program(name: str) -> str:
    for place in _PLACES:
        found = shutil.which(name, path=place)
        if found:
            return found
    raise ServerNotFound(f"no {name} on this machine")


class RabbitServer:
    """One node on free ports, with its data in ``folder``: durable queues outlive a restart. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        names, erlang = free_port(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = {LOOPBACK}:{self.port}\n"
            "log.console = true\nlog.console.level = info\nlog.file = false\n"
            # A full disk of a test machine must not block publishers for good.
            "disk_free_limit.absolute = 10MB\n"
        )
        environ = {
            "HOME": str(folder),  # the Erlang cookie
            "RABBITMQ_NODENAME": f"test-{uuid4().hex[:8]}@localhost",
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_DIST_PORT": str(erlang),
            "ERL_FLAGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": LOOPBACK,
        }
        # Erlang's port mapper: left to itself it would stay behind as a daemon on every interface.
        mapper = [_program("epmd"), "-port", str(names), "-address", LOOPBACK]
        self._mapper = TestProcess(mapper, log=folder / "epmd.log", env=environ, cwd=folder)
        self._node = TestProcess(
            [_program("rabbitmq-server")],
            log=folder / "rabbit.log",
            env=environ,
            cwd=folder,
            ready_line=_READY,
        )

    @property
    def url(self) -> str:
        """``amqp://guest:guest@127.0.0.1:PORT//``: the guest may come from loopback only."""
        return self.virtual_host_url("/")

    def virtual_host_url(self, name: str) -> str:
        """The URL of a virtual host."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}/{quote(name, safe='')}"

    def kill(self) -> None:
        """``kill -9`` of the node."""
        self._node.kill()

    def ask_to_stop(self) -> None:
        """SIGTERM, an orderly stop; returns at once."""
        if self._node.alive:
            self._node.signal(signal.SIGTERM)

    @property
    def alive(self) -> bool:
        """Whether the node runs."""
        return self._node.alive

    @property
    def ready(self) -> bool:
        """Whether the node takes connections."""
        return self._node.alive and _READY in self._node.new_log

    def start(self, *, wait: bool = True) -> Self:
        """Start the node, and wait until it takes connections unless told otherwise."""
        if not self._mapper.alive:
            self._mapper.start()
        self._node.start(wait=wait)
        return self

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._node.kill()
        self._mapper.kill()
