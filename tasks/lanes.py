"""The queues of the service: lanes for merges and for short jobs, and several for the chunks of all others.

A whole header is published at once. So in one queue a page would wait for every chunk of a document of 5,000 pages that
came before it, and in several only for those of the documents that share its queue.
"""

from __future__ import annotations

from zlib import crc32

from kombu.entity import Queue
from kombu.utils.scheduling import round_robin_cycle

MERGES, SHORT = "ocr.merges", "ocr.short"
#: What is taken before the chunks of large documents, in this order.
LANES = (MERGES, SHORT)
#: Messages of the lanes that are taken in a row while something else waits.
TURNS = 8


def lane_of(document_id: str, *, pages: int, chunk_pages: int, spread: int) -> str:
    """The queue for the chunks of a document: the short one where all of it is one chunk as the deployment cuts them.

    :param spread: over how many queues the others are spread, by document.
    """
    return SHORT if pages <= chunk_pages else f"ocr.{crc32(document_id.encode()) % spread}"


def queues(default: str, *, spread: int) -> tuple[Queue, ...]:
    """Every queue that a worker listens to unless ``-Q`` says otherwise; ``default`` is Celery's own."""
    names = (*LANES, *(f"ocr.{number}" for number in range(spread)))
    return tuple(Queue(name, routing_key=name) for name in (*names, default))  # type: ignore[no-untyped-call]


class LanesFirst(round_robin_cycle):
    """The order in which a worker on Redis asks its queues: the lanes first, the others in turns.

    After ``TURNS`` messages of the lanes in a row the others are asked first, once: they are slowed down, not stopped.
    Named in ``broker_transport_options``. On RabbitMQ nobody can choose: a worker of its own serves the lanes there.
    """

    def __init__(self, it: list[str] | None = None) -> None:
        super().__init__(it)  # type: ignore[no-untyped-call]
        self._in_a_row = 0

    def consume(self, n: int) -> list[str]:
        """The first ``n`` queues in the order in which they are asked."""
        lanes = [name for name in LANES if name in self.items]
        others = [name for name in self.items if name not in LANES]
        return (others + lanes if self._in_a_row >= TURNS else lanes + others)[:n]

    def rotate(self, last_used: str) -> str:
        """A message of this queue was taken: its turn comes after the others'."""
        self._in_a_row = self._in_a_row + 1 if last_used in LANES else 0
        super().rotate(last_used)  # type: ignore[no-untyped-call]
        return last_used
