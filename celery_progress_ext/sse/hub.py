"""One subscription for all readers of a process: each message is encoded once and offered to the clients of its topic.

.. code-block:: python

    hub = Hub(broadcaster)
    mailbox = Mailbox()
    with hub.follow(mailbox, job_channel(job_id), make_topic):   # subscribed, current, and the first frames are there
        frame = mailbox.get(timeout=15)                          # a Frame, CLOSED, or None

A topic is what is published on one channel. It knows the newest version of each of its jobs, so a client that joins
gets what is current without a read of its own, and nothing is sent twice or backwards. Nothing falls between, since a
topic is read after its subscription stands.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any, Protocol, TypeVar

from celery_progress_ext.broadcast import BroadcastLost, Subscription
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


class Frame:
    """An event ready to send, in the two forms in which sockets take it, each made once however many clients there are.

    :param key: a waiting frame gives way to a later one with the same key: its job's id.
    :param last: whether it is the last event of a stream that ends with its job.
    :param sign: a sign of life, which no waiting frame gives way to.
    :param fields: an ordinary channel's event as it was published.
    """

    __slots__ = ("_chunk", "_unnamed", "fields", "key", "last", "sign", "wire")

    def __init__(
        self,
        key: object,
        encoded: bytes,
        *,
        last: bool = False,
        sign: bool = False,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        self.key = key
        self.wire = encoded
        self.last = last
        self.sign = sign
        self.fields = fields
        self._chunk: bytes | None = None
        self._unnamed: Frame | None = None

    @property
    def unnamed(self) -> Frame:
        """The same without a name, as ``onmessage`` gets it."""
        if self._unnamed is None:
            encoded = wire.without_name(self.wire)
            self._unnamed = Frame(self.key, encoded, last=self.last, sign=self.sign, fields=self.fields)
        return self._unnamed

    @property
    def chunk(self) -> bytes:
        """The event as a chunk of an HTTP/1.1 body."""
        if self._chunk is None:
            self._chunk = wire.chunk(self.wire)
        return self._chunk


def keep_newest(waiting: dict[object, Frame], frame: Frame) -> None:
    """Let a frame wait in the place of an earlier one with its key; a sign of life takes nobody's place."""
    if not (frame.sign and frame.key in waiting):
        waiting[frame.key] = frame


class Client(Protocol):
    """A receiver of frames. Offering never blocks: a client that is slow skips, or is given up."""

    def offer(self, frame: Frame) -> None:
        """Take a frame; called with the topic's lock held."""

    def close(self) -> None:
        """The hub is closed: the client will reconnect elsewhere."""


class Closed(Enum):
    """What a mailbox holds at its end."""

    CLOSED = "closed"


CLOSED = Closed.CLOSED


class Mailbox:
    """What waits for a client that comes for it: the newest frame of each key, oldest first.

    :param limit: frames of different keys that may wait; a client that is further behind is given up.
    """

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._changed = threading.Condition(threading.Lock())
        self._waiting: dict[object, Frame] = {}
        self._closed = False

    def get(self, timeout: float) -> Frame | Closed | None:
        """What came first, or None after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            if self._closed:
                return CLOSED
            return self._waiting.pop(next(iter(self._waiting))) if self._waiting else None

    @property
    def closed(self) -> bool:
        """Whether nothing more comes."""
        return self._closed

    def take_all(self) -> list[Frame]:
        """Everything that waits."""
        with self._changed:
            frames, self._waiting = [*self._waiting.values()], {}
            return frames

    def offer(self, frame: Frame) -> None:
        """See ``Client.offer``."""
        with self._changed:
            keep_newest(self._waiting, frame)
            self._closed |= len(self._waiting) > self._limit
            self._changed.notify()

    def close(self) -> None:
        """See ``Client.close``."""
        with self._changed:
            self._closed = True
            self._changed.notify()


class Topic:
    """What is published on one channel, and the clients that follow it; the kinds are in ``streams``."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        #: Guards the clients and what they were sent. Never held over a read.
        self.lock = threading.Lock()
        self.clients: dict[Client, None] = {}
        #: When something was sent last, and when what is current was last read (``time.monotonic()``).
        self.said_at = self.looked_at = time.monotonic()
        #: Clients that have come and not gone; guarded by the hub.
        self.followers = 0
        self.acknowledged = False

    def receive(self, message: Any) -> None:
        """A message of the channel.

        :raises KeyError, ValueError: when it is nothing that belongs here.
        """
        raise NotImplementedError

    def look(self, *, alive: bool = False) -> None:
        """Read what is current, and send what was missed.

        :param alive: also send a sign of life where nothing was, since nobody else does.
        """

    def admit(self, client: Client, last_id: int | None) -> None:
        """Offer a new client what it begins with; called with the lock held."""

    def join(self, client: Client, last_id: int | None = None) -> None:
        """Offer a client what is current, and from now on everything.

        :param last_id: the id of the last event that the client says it has.
        """
        self.look()
        self.begin(client, last_id)
        if last_id is not None:
            self.catch_up(client, last_id)

    def begin(self, client: Client, last_id: int | None) -> None:
        """Offer a client what is known here, and from now on everything."""
        with self.lock:
            self.admit(client, last_id)
            self.clients[client] = None

    def catch_up(self, client: Client, last_id: int) -> None:
        """Offer a client what it may have missed while it was away; this reads."""

    def close(self) -> None:
        """End the streams of all clients."""
        with self.lock:
            clients = [*self.clients]
        for client in clients:
            client.close()

    def replace(self, mailbox: Mailbox, client: Client) -> None:
        """Let ``client`` go on where ``mailbox`` is, with what waits in it."""
        with self.lock:
            if mailbox in self.clients:
                del self.clients[mailbox]
                self.clients[client] = None
            for frame in mailbox.take_all():
                client.offer(frame)

    def send(self, frame: Frame) -> None:
        """Offer a frame to every client; called with the lock held."""
        self.said_at = time.monotonic()
        # A client may leave while it is offered something: its connection broke.
        for client in [*self.clients]:
            client.offer(frame)


TopicT = TypeVar("TopicT", bound=Topic)


class Source(Protocol):
    """Where subscriptions come from: a broadcaster, or a Redis of ordinary channels."""

    def subscribe(self) -> Subscription:
        """Open a subscription without channels.

        :raises BroadcastLost: when the server cannot be reached.
        """


class Hub:
    """The one reader of a process and its topics. Nothing runs before the first client comes.

    Make it in the process that uses it: a thread does not survive a fork. With gevent's monkey patching the threads are
    greenlets.

    :param keepalive_seconds: a topic on which nothing came for so long is read: a broadcast may have been lost.
    :param poll_seconds: how often topics are read while nothing is broadcast.
    :param broadcasts: whether other processes' messages come at all; without them topics are always polled.
    """

    def __init__(
        self,
        source: Source,
        *,
        keepalive_seconds: float = 15.0,
        poll_seconds: float = 2.0,
        broadcasts: bool = True,
    ) -> None:
        self._source = source
        self._keepalive_seconds = keepalive_seconds
        self._poll_seconds = poll_seconds
        self._broadcasts = broadcasts
        # Guards the topics; held for moments only.
        self._lock = threading.Lock()
        # Guards what the server is asked for, in the order of the topics' coming and going; held over the network.
        self._subscribing = threading.Lock()
        self._topics: dict[str, Topic] = {}
        self._subscription: Subscription | None = None
        self._attempted = threading.Event()
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []
        self._changed_at = time.monotonic()

    @property
    def connected(self) -> bool:
        """Whether messages arrive. While they do not, topics are polled."""
        return self._subscription is not None

    @property
    def clients(self) -> Mapping[str, int]:
        """Clients per channel; a channel without any is unsubscribed and not listed."""
        with self._lock:
            return {channel: topic.followers for channel, topic in self._topics.items()}

    def topic(self, channel: str) -> Topic | None:
        """The topic of a channel that somebody follows now."""
        with self._lock:
            return self._topics.get(channel)

    @contextmanager
    def follow(
        self, client: Client, channel: str, make: Callable[[str], TopicT], *, last_id: int | None = None
    ) -> Iterator[TopicT]:
        """Offer ``client`` what is current on ``channel``, and what comes, to the end of the block.

        :param make: makes the topic, where nobody follows the channel yet.
        :param last_id: see ``Topic.join``.
        """
        topic = self.enter(client, channel, make, last_id=last_id)
        try:
            yield topic
        finally:
            self.leave(client, topic)

    def enter(
        self, client: Client, channel: str, make: Callable[[str], TopicT], *, last_id: int | None = None
    ) -> TopicT:
        """As :meth:`follow`, for a client that outlives the caller; :meth:`leave` has to follow."""
        with self._lock:
            topic = self._topics.setdefault(channel, make(channel))
            topic.followers += 1
            if not self._closing.is_set():
                self._start()
        try:
            if self._closing.is_set():
                client.close()
            else:
                self._attempted.wait(START_SECONDS)
                self._subscribe(topic)
                topic.join(client, last_id)
        except BaseException:
            # Also a greenlet that is killed here.
            self.leave(client, topic)
            raise
        if self._closing.is_set():
            client.close()
        return topic  # type: ignore[return-value]  # a channel has one kind of topic

    def leave(self, client: Client, topic: Topic) -> None:
        """Forget a client, and unsubscribe from what nobody else follows."""
        with topic.lock:
            topic.clients.pop(client, None)
        with self._lock:
            topic.followers -= 1
        self._forget(topic)

    def left(self, topic: Topic) -> None:
        """As :meth:`leave`, where the topic has forgotten the client already and the caller must not wait."""
        with self._lock:
            topic.followers -= 1
        self._wake.set()

    def close(self) -> None:
        """End all streams and the reader. Later clients are closed at once. May be called again."""
        self._closing.set()
        self._wake.set()
        with self._lock:
            topics = [*self._topics.values()]
        for topic in topics:
            topic.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(2 * _TURN_SECONDS)

    def _start(self) -> None:
        for index, work in enumerate((self._read, self._look)):
            if len(self._threads) <= index:
                self._threads.append(threading.Thread(target=work, name=f"sse-hub{work.__name__}", daemon=True))
                self._threads[index].start()

    # The reader

    def _read(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._closing.is_set():
            try:
                with self._source.subscribe() as subscription:
                    self._adopt(subscription)
                    pause = FIRST_PAUSE_SECONDS
                    while not self._closing.is_set():
                        received = subscription.get(timeout=_TURN_SECONDS)
                        if received is not None:
                            self._deliver(*received)
            except Exception as error:
                # Whatever ended the reader: without one every stream of this process would be silent.
                logger.warning("sse_reader_lost", error=type(error).__name__, reason=str(error))
            finally:
                self._abandon()
            self._closing.wait(pause)
            pause = min(pause * 2, LAST_PAUSE_SECONDS)

    def _adopt(self, subscription: Subscription) -> None:
        with self._subscribing:
            with self._lock:
                topics = [*self._topics.values()]
            for topic in topics:
                subscription.add(topic.channel)
                topic.acknowledged = True
            self._subscription = subscription
        self._changed()
        logger.info("sse_reader_connected", channels=len(topics))

    def _abandon(self) -> None:
        if self._subscription is not None:
            self._subscription = None
            with self._lock:
                for topic in self._topics.values():
                    topic.acknowledged = False
        self._changed()

    def _changed(self) -> None:
        """Messages may be missing: every topic is read again."""
        self._changed_at = time.monotonic()
        self._attempted.set()
        self._wake.set()

    def _deliver(self, channel: str, message: Any) -> None:
        with self._lock:
            topic = self._topics.get(channel)
        if topic is None:
            return
        try:
            topic.receive(message)
        except (KeyError, ValueError, TypeError) as error:
            logger.warning("message_ignored", channel=channel, reason=f"not of this channel: {error!r}")

    def _subscribe(self, topic: Topic) -> None:
        if topic.acknowledged:
            return
        # A connection that turns out broken is the reader's to mend; it then subscribes to everything again.
        with self._subscribing, suppress(BroadcastLost):
            if self._subscription is not None and not topic.acknowledged:
                self._subscription.add(topic.channel)
                topic.acknowledged = True

    def _forget(self, topic: Topic) -> None:
        with self._subscribing, suppress(BroadcastLost):
            with self._lock:
                if topic.followers or self._topics.get(topic.channel) is not topic:
                    return
                del self._topics[topic.channel]
            if self._subscription is not None and topic.acknowledged:
                topic.acknowledged = False
                self._subscription.remove(topic.channel)

    # Looking for what was missed

    def _look(self) -> None:
        turn = max(min(self._poll_seconds, self._keepalive_seconds, 2.0) / 4, 0.02)
        while not self._closing.is_set():
            self._wake.wait(turn)
            self._wake.clear()
            with self._lock:
                topics = [*self._topics.values()]
            for topic in topics:
                if self._closing.is_set():
                    return
                try:
                    self._look_at(topic)
                except Exception as error:
                    # The other topics are looked at all the same, and this one again.
                    logger.warning("sse_look_failed", channel=topic.channel, error=type(error).__name__)

    def _look_at(self, topic: Topic) -> None:
        if not topic.followers:
            self._forget(topic)
            return
        now = time.monotonic()
        polling = not (self._broadcasts and self.connected)
        if topic.looked_at < self._changed_at:
            topic.look()
        elif polling and now - topic.looked_at >= self._poll_seconds:
            topic.look(alive=True)
        elif now - max(topic.said_at, topic.looked_at) >= self._keepalive_seconds:
            topic.look()
