"""A tick leaves a trace in Redis, so that a worker, and whoever looks at a job, can be warned where no beat runs."""

from __future__ import annotations

from typing import Any

from celery_progress_ext.broadcast import CHANNEL_PREFIX, Broadcaster

_KEY = f"{CHANNEL_PREFIX}ticked"
#: Ticks that may be missed, and the least that is waited for one. Seconds for the second.
_TICKS, _LEAST_SECONDS = 3, 10.0


class TickTrace:
    """When there was a tick. Without Redis there is nowhere to leave it, and none is missed."""

    def __init__(self, broadcaster: Broadcaster, tick_seconds: float) -> None:
        self._client: Any = getattr(broadcaster, "client", None)
        #: How long a trace stays, and a worker waits for one.
        self.seconds = max(_LEAST_SECONDS, _TICKS * tick_seconds)

    def leave(self) -> None:
        """There was a tick now.

        :raises redis.exceptions.RedisError: when Redis does not answer.
        """
        if self._client is not None:
            self._client.set(_KEY, 1, px=int(self.seconds * 1000))

    def missing(self) -> bool:
        """Whether there was none for ``seconds``.

        :raises redis.exceptions.RedisError: when Redis does not answer.
        """
        return self._client is not None and not self._client.exists(_KEY)
