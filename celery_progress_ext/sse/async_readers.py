"""As ``readers``, for event loops: what reads and writes for the streams of one app there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress

from celery_progress_ext.event_loops import LoopReaders, PerLoop
from celery_progress_ext.exceptions import JobNotFound
from celery_progress_ext.sse import streams
from celery_progress_ext.sse.async_hub import AsyncHub, AsyncMailbox
from celery_progress_ext.sse.readers import KEEPALIVE_SECONDS, Caps, Room
from celery_progress_ext.sse.streams import Stream


class AsyncReaders:
    """The hubs of one app, one for each event loop, and the room that they share.

    :param loop_readers: what the readers of each event loop share (``ProcessContext.per_loop``).
    :param poll_seconds: how often the database is read while nothing is broadcast.
    """

    def __init__(
        self,
        loop_readers: PerLoop[LoopReaders],
        caps: Caps,
        *,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        poll_seconds: float = 2.0,
    ) -> None:
        self.keepalive_seconds = keepalive_seconds
        self.room = Room(caps)
        self._hubs = PerLoop(
            lambda: AsyncHub(loop_readers.get(), keepalive_seconds=keepalive_seconds, poll_seconds=poll_seconds)
        )

    @property
    def hub(self) -> AsyncHub:
        """That of the running event loop.

        :raises RuntimeError: outside of one.
        """
        return self._hubs.get()

    async def body(
        self, stream: Stream, mailbox: AsyncMailbox, *, address: str | None, credential: str | None
    ) -> AsyncGenerator[bytes, None]:
        """The body of a response that streams to its client, to the end of ``mailbox``. Close it in any case."""
        give_back = self.room.admit(address, credential)
        if give_back is None:
            yield streams.SHED
            return
        try:
            yield stream.opening
            # JobNotFound: retention removed it meanwhile; a reconnect gets 404.
            with suppress(JobNotFound):
                async with self.hub.follow(mailbox, stream.channel, stream.make, last_id=stream.last_id):
                    contents = mailbox.contents(self.keepalive_seconds, unnamed=stream.unnamed, until=stream.until)
                    async for content in contents:
                        yield content
        finally:
            give_back()

    def close(self) -> None:
        """End the streams of the running event loop, for a shutdown. May be called again."""
        self.hub.close()
