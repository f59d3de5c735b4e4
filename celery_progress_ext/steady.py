"""A finish time that moves as people can follow: what was just shown holds back what is shown next.

An estimate changes with every page that is read, and with a chunk that starts or ends it may leap. Shown at once, that
reads as a clock that does not know; and most leaps are taken back soon. So what is shown goes towards the estimate by a
share of the remaining time in each second, and its interval holds both. After a few seconds nothing is held back. A
finish time that becomes later moves faster than the clock, so that nothing stays "done any moment".
"""

from __future__ import annotations

from dataclasses import dataclass

from celery_progress_ext.eta import Eta

#: The share of the remaining time, the longer of the old and the new, by which a finish time moves in a second.
_PER_SECOND = 0.1
#: What it may always move in a second, so that a short job is not held back: to earlier, and to later beside the clock.
#: Seconds.
_LEAST_EARLIER, _LEAST_LATER = 1.0, 2.0


@dataclass(frozen=True, slots=True)
class Shown:
    """The finish time that was shown last, and when; seconds since the epoch."""

    finish_at: float
    at: float


def steady(found: Eta, shown: Shown | None, *, now: float) -> Eta:
    """``found``, no further from what was shown than may be followed; ``now <= finish_at``, inside its interval."""
    if shown is None or shown.at > now:
        return found
    passed, share = now - shown.at, _PER_SECOND * (max(found.finish_at, shown.finish_at) - now)
    first = shown.finish_at - passed * max(_LEAST_EARLIER, share)
    last = max(now, shown.finish_at + passed * (1 + max(_LEAST_LATER, share)))
    finish_at = max(now, min(max(found.finish_at, first), last))
    return Eta(finish_at=finish_at, earliest=min(found.earliest, finish_at), latest=max(found.latest, finish_at))
