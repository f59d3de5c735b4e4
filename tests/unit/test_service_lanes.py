"""The service's queues, and the order in which a worker asks them."""

from __future__ import annotations

from collections import Counter

from tasks.lanes import LANES, MERGES, SHORT, TURNS, LanesFirst, lane_of, queues

NAMES = [queue.name for queue in queues("celery", spread=2)]


def _cycle() -> LanesFirst:
    cycle = LanesFirst()
    cycle.update(NAMES)
    return cycle


def test_what_fits_into_one_chunk_is_short() -> None:
    """Others are spread by document, always the same way."""
    assert lane_of("a", pages=25, chunk_pages=25, spread=4) == SHORT
    spread = Counter(lane_of(f"doc_{number}", pages=26, chunk_pages=25, spread=4) for number in range(400))
    assert set(spread) == {"ocr.0", "ocr.1", "ocr.2", "ocr.3"}
    assert min(spread.values()) > 60


def test_a_worker_listens_to_every_queue_that_a_document_may_go_to() -> None:
    """And to Celery's own, where messages of before lie."""
    assert NAMES == [MERGES, SHORT, "ocr.0", "ocr.1", "celery"]


def test_lanes_are_asked_first_and_the_others_in_turns() -> None:
    """Each of the others once before one of them comes again."""
    cycle = _cycle()
    taken = []
    for _ in range(6):
        order = cycle.consume(len(NAMES))
        assert order[:2] == list(LANES)
        taken.append(cycle.rotate(order[2]))
    assert taken == ["ocr.0", "ocr.1", "celery"] * 2


def test_a_flood_of_short_jobs_does_not_stop_the_others() -> None:
    """One in ``TURNS`` is theirs."""
    cycle = _cycle()
    taken = [cycle.rotate(cycle.consume(len(NAMES))[0]) for _ in range(3 * (TURNS + 1))]
    assert [index for index, name in enumerate(taken, 1) if name not in LANES] == [9, 18, 27]


def test_queues_that_come_and_go_are_asked() -> None:
    """A worker of some of them, and one to which a queue is added."""
    cycle = _cycle()
    cycle.update(["ocr.1", SHORT])
    assert cycle.consume(2) == [SHORT, "ocr.1"]
    assert cycle.consume(1) == [SHORT]
