"""Lanes: queues of their own for what is small, so that it does not wait behind what is large.

A header is published at once, so whatever is published later to the same queue waits for all of it. A lane is a queue
beside it: for bodies (``progress_body_queue``), or for the header of a job (``tracked_chord(…, lane=…)``). It is used
only while a worker listens to it. Everything else goes where the project's routes say, and a message that lies where
nobody has listened for a lease is sent the other way: a worker that is started for one queue alone leaves nothing
hanging.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from celery_progress_ext.roster import Roster

#: Options by which a signature says itself where it goes. It has no lane then.
_WHERE = ("queue", "exchange", "routing_key")

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQueues:
    """Where the messages of a job go; each None where it is not known, and where there is no lane."""

    chunks: str | None = None
    body: str | None = None
    chunk_lane: str | None = None
    body_lane: str | None = None

    @classmethod
    def of(cls, column: Mapping[str, Any] | None) -> JobQueues:
        """From the job's row; what a newer version keeps there besides is ignored."""
        return cls(**{name: (column or {}).get(name) for name in cls.__slots__})

    def to_dict(self) -> dict[str, str | None]:
        """As in the job's row."""
        return asdict(self)


def may_have_lane(options: Options) -> bool:
    """Whether these options leave open where the message goes."""
    return not any(options.get(name) for name in _WHERE)


def in_lane(options: Options, lane: str) -> dict[str, Any]:
    """These options, in the lane."""
    return {**options, "queue": lane}


def chosen(options: Options, lane: str | None, roster: Roster) -> dict[str, Any]:
    """The options of a first message: in the lane while a worker listens to it, as they are otherwise."""
    if lane is None or not may_have_lane(options) or not roster.listens(lane):
        return dict(options)
    return in_lane(options, lane)


def rescued(
    options: Options, lane: str | None, roster: Roster, *, queue_of: Callable[[Options], str], silence: float
) -> dict[str, Any] | None:
    """The options by which a message reaches a worker that lies where nobody listens; None where it may stay.

    :param queue_of: the name of the queue that options lead to.
    :param silence: seconds for which nobody must have listened: a restart is shorter.
    """
    if lane is None:
        return None
    if options.get("queue") == lane:
        other = {name: value for name, value in options.items() if name != "queue"}
    elif may_have_lane(options):
        other = in_lane(options, lane)
    else:
        return None
    if not roster.abandoned(queue_of(options), seconds=silence) or not roster.listens(queue_of(other)):
        return None
    return other
