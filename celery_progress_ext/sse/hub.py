"""One subscription for all readers of a process: messages fan out to mailboxes that keep the newest of each job.

.. code-block:: python

    hub = Hub(broadcaster)
    with hub.connect([job_channel(job_id)]) as mailbox:   # subscribed, and the server has said so
        ...                                               # read the current snapshot, send it,
        mailbox.mark(job_id, version)                     # and say what was sent
        item = mailbox.get(timeout=15)                    # a Frame, a Notice, or None

Nothing falls between the snapshot and the messages, since the snapshot is read after the subscription stands; and
nothing is sent twice or backwards, since a mailbox lets only newer versions through.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from functools import cached_property
from types import TracebackType
from typing import Any, NamedTuple, Self

from celery_progress_ext.broadcast import HEARTBEAT, Broadcaster, BroadcastLost, Message, Subscription, compact_json
from celery_progress_ext.jobs import EVENT_NAMES, JobStatus
from celery_progress_ext.log import get_logger
from celery_progress_ext.sse import wire

logger = get_logger(__name__)

#: Pauses of the reader before it tries again, doubled from the first to the last. Seconds.
FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 3.0
#: How long the first client of a process waits for the reader to have its connection. Seconds.
START_SECONDS = 2.0
#: How often the reader looks whether the hub was closed. Seconds.
_TURN_SECONDS = 0.5


class Frame(NamedTuple):
    """A snapshot ready to send. ``terminal``: the job is over."""

    job_id: str
    version: int
    terminal: bool
    wire: bytes


class Notice(Enum):
    """What a mailbox holds beside frames."""

    #: The reader's connection broke or is back, so messages may be missing: read the current snapshot again.
    RESYNC = "resync"
    #: The hub was closed: end the stream, the client will reconnect elsewhere.
    CLOSED = "closed"


class Published:
    """One snapshot in the forms in which clients may get it, each encoded once however many there are.

    :raises KeyError, ValueError: when ``payload`` is no snapshot.
    """

    def __init__(self, payload: Mapping[str, Any], *, event: str | None = None) -> None:
        status = JobStatus(payload["status"])
        self.job_id = str(payload["job_id"])
        self.version = int(payload["version"])
        self.terminal = status.terminal
        self._event = event or EVENT_NAMES[status]
        self._payload = payload

    @classmethod
    def of(cls, message: Message) -> Published:
        """A message; the mailbox recognises a heartbeat without change, since it knows what its client has."""
        return cls(message.payload, event=None if message.version is None else message.event)

    @cached_property
    def body(self) -> bytes:
        """The snapshot as JSON."""
        return compact_json(self._payload)

    @cached_property
    def numbered(self) -> Frame:
        """A durable event, with its version as ``id:``."""
        return self._frame(wire.encode(self.body, event=self._event, id=self.version))

    @cached_property
    def unnumbered(self) -> Frame:
        """The same without ``id:``, for streams of many jobs."""
        return self._frame(wire.encode(self.body, event=self._event))

    @cached_property
    def heartbeat(self) -> Frame:
        """A sign of life for who has this version already."""
        return self._frame(wire.encode(self.body, event=HEARTBEAT))

    def _frame(self, encoded: bytes) -> Frame:
        return Frame(self.job_id, self.version, self.terminal, encoded)


class Mailbox:
    """What waits for one client: the newest frame of each job, so that a slow client skips and never piles up.

    Versions only grow. A terminal frame gives way to nothing but a newer version, which is a run that was retried.
    """

    def __init__(self, hub: Hub, channels: Iterable[str], *, numbered: bool) -> None:
        self.channels = tuple(dict.fromkeys(channels))
        self._hub = hub
        self._numbered = numbered
        self._changed = threading.Condition(threading.Lock())
        self._waiting: dict[str, Frame] = {}
        self._marked: dict[str, int] = {}
        self._resync = False
        self._closed = False

    def get(self, timeout: float) -> Frame | Notice | None:
        """What came first, or None after ``timeout`` seconds. Notices go before frames."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._resync or self._closed, timeout)
            if self._closed:
                return Notice.CLOSED
            if self._resync:
                self._resync = False
                return Notice.RESYNC
            if not self._waiting:
                return None
            frame = self._waiting.pop(next(iter(self._waiting)))
            self._marked[frame.job_id] = frame.version
            return frame

    def mark(self, job_id: str, version: int) -> None:
        """The client has this version: neither it nor an older one is to follow."""
        with self._changed:
            self._mark(job_id, version)

    def take(self, published: Published) -> Frame | None:
        """A snapshot that the caller read by itself, as a frame to send; None when the client has it already."""
        with self._changed:
            if published.version <= self.marked(published.job_id):
                return None
            self._mark(published.job_id, published.version)
            return self._durable(published)

    def marked(self, job_id: str) -> int:
        """The newest version that the client has; -1 when it has none."""
        return self._marked.get(job_id, -1)

    def offer(self, published: Published, *, unchanged: bool = False) -> None:
        """Let in what is newer than what the client has or waits for.

        :param unchanged: a sign of life: also when it is not newer. A client without that version gets it as news, so
            that the sign heals the loss of the event.
        """
        with self._changed:
            marked, waiting = self.marked(published.job_id), self._waiting.get(published.job_id)
            newest = max(marked, waiting.version if waiting else -1)
            if published.version < newest or (published.version == newest and not unchanged):
                return
            self._waiting[published.job_id] = (
                self._durable(published) if published.version > marked else published.heartbeat
            )
            self._changed.notify()

    def begin(self) -> None:
        """The client has read nothing yet, so there is nothing to read again."""
        with self._changed:
            self._resync = False

    def notify(self, notice: Notice) -> None:
        """Wake the client with a notice."""
        with self._changed:
            self._resync |= notice is Notice.RESYNC
            self._closed |= notice is Notice.CLOSED
            self._changed.notify()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hub.release(self)

    def _mark(self, job_id: str, version: int) -> None:
        self._marked[job_id] = max(version, self.marked(job_id))
        waiting = self._waiting.get(job_id)
        if waiting is not None and waiting.version <= version:
            del self._waiting[job_id]

    def _durable(self, published: Published) -> Frame:
        return published.numbered if self._numbered else published.unnumbered


class Hub:
    """The one reader of a process and the mailboxes it fills. Nothing runs before the first client connects.

    Make it in the process that uses it: a thread does not survive a fork. With gevent's monkey patching the thread is
    a greenlet.
    """

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster
        # Guards the mailboxes; held for moments only.
        self._lock = threading.Lock()
        # Guards what the server is asked for, in the order of the mailboxes' coming and going; held over the network.
        self._subscribing = threading.Lock()
        self._mailboxes: dict[str, set[Mailbox]] = {}
        self._subscription: Subscription | None = None
        self._acknowledged: set[str] = set()
        self._attempted = threading.Event()
        self._closing = threading.Event()
        self._reader: threading.Thread | None = None
        self._changed_at = time.monotonic()

    @property
    def connected(self) -> bool:
        """Whether messages arrive. While they do not, clients must look for themselves."""
        return self._subscription is not None

    @property
    def changed_at(self) -> float:
        """When the connection last broke or came back (``time.monotonic()``); a snapshot read later is current."""
        return self._changed_at

    @property
    def clients(self) -> Mapping[str, int]:
        """Clients per channel; a channel without any is unsubscribed and not listed."""
        with self._lock:
            return {channel: len(mailboxes) for channel, mailboxes in self._mailboxes.items()}

    def connect(self, channels: Iterable[str], *, numbered: bool = True) -> Mailbox:
        """A mailbox for what is published on ``channels`` from now on; leave its ``with`` to give it back.

        When the broadcaster cannot be reached the mailbox stays empty until it can, and then holds a RESYNC.

        :param numbered: whether frames carry their version as ``id:``.
        """
        mailbox = Mailbox(self, channels, numbered=numbered)
        with self._lock:
            for channel in mailbox.channels:
                self._mailboxes.setdefault(channel, set()).add(mailbox)
            if self._closing.is_set():
                mailbox.notify(Notice.CLOSED)
                return mailbox
            if self._reader is None or not self._reader.is_alive():
                self._reader = threading.Thread(target=self._read, name="sse-hub", daemon=True)
                self._reader.start()
        try:
            self._attempted.wait(START_SECONDS)
            self._subscribe(mailbox.channels)
        except BaseException:
            # Also a greenlet that is killed here: nobody would give the mailbox back.
            self.release(mailbox)
            raise
        mailbox.begin()
        return mailbox

    def release(self, mailbox: Mailbox) -> None:
        """Forget a mailbox, and unsubscribe from what nobody else listens to. May be called again."""
        with self._lock:
            for channel in mailbox.channels:
                mailboxes = self._mailboxes.get(channel, set())
                mailboxes.discard(mailbox)
                if not mailboxes:
                    self._mailboxes.pop(channel, None)
        self._unsubscribe(mailbox.channels)

    def close(self) -> None:
        """End all streams and the reader. Later clients are closed at once."""
        self._closing.set()
        self._notify_all(Notice.CLOSED)
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(2 * _TURN_SECONDS)

    def _read(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._closing.is_set():
            try:
                with self._broadcaster.subscribe() as subscription:
                    self._adopt(subscription)
                    pause = FIRST_PAUSE_SECONDS
                    while not self._closing.is_set():
                        received = subscription.get(timeout=_TURN_SECONDS)
                        if received is not None:
                            self._deliver(*received)
            except Exception as error:
                # Whatever ended it: without a reader every stream of this process would be silent.
                logger.warning("sse_reader_lost", error=type(error).__name__, reason=str(error))
            finally:
                self._abandon()
            self._closing.wait(pause)
            pause = min(pause * 2, LAST_PAUSE_SECONDS)

    def _adopt(self, subscription: Subscription) -> None:
        with self._subscribing:
            with self._lock:
                channels = list(self._mailboxes)
            for channel in channels:
                subscription.add(channel)
            self._acknowledged = set(channels)
            self._subscription = subscription
        self._changed_at = time.monotonic()
        self._notify_all(Notice.RESYNC)
        self._attempted.set()
        logger.info("sse_reader_connected", channels=len(channels))

    def _abandon(self) -> None:
        if self._subscription is not None:
            self._subscription = None
            self._changed_at = time.monotonic()
            self._notify_all(Notice.RESYNC)
        self._attempted.set()

    def _subscribe(self, channels: Iterable[str]) -> None:
        # A connection that turns out broken is the reader's to mend; it then subscribes to everything again.
        with self._subscribing, suppress(BroadcastLost):
            for channel in channels:
                if self._subscription is not None and channel not in self._acknowledged:
                    self._subscription.add(channel)
                    self._acknowledged.add(channel)

    def _unsubscribe(self, channels: Iterable[str]) -> None:
        with self._subscribing, suppress(BroadcastLost):
            for channel in channels:
                with self._lock:
                    wanted = channel in self._mailboxes
                if self._subscription is not None and not wanted and channel in self._acknowledged:
                    self._acknowledged.discard(channel)
                    self._subscription.remove(channel)

    def _deliver(self, channel: str, message: Message) -> None:
        with self._lock:
            mailboxes = list(self._mailboxes.get(channel, ()))
        if not mailboxes:
            return
        try:
            published = Published.of(message)
        except (KeyError, ValueError) as error:
            logger.warning("message_ignored", channel=channel, reason=f"not a snapshot: {error!r}")
            return
        for mailbox in mailboxes:
            mailbox.offer(published, unchanged=message.version is None)

    def _notify_all(self, notice: Notice) -> None:
        with self._lock:
            mailboxes = {mailbox for mailboxes in self._mailboxes.values() for mailbox in mailboxes}
        for mailbox in mailboxes:
            mailbox.notify(notice)
