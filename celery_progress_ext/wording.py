"""Times as people say them; one table of precisions for every face. ``static/wording.js`` says the same.

A finish time is an estimate with an interval, and is given at one precision that fits the interval's width: a time to
the second in an interval of half an hour would promise what nobody knows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

#: What a time is rounded to, in seconds: the largest of which at least two fit into the interval.
PRECISIONS = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400)
_MINUTE = 60
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: What is said once an interval is over and the job is not.
LATE = "later than expected"


class Interval(Protocol):
    """An estimate: times, or seconds since the epoch."""

    @property
    def finish_at(self) -> datetime | float:
        """The best guess."""

    @property
    def earliest(self) -> datetime | float:
        """The beginning of the interval."""

    @property
    def latest(self) -> datetime | float:
        """Its end."""


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def _seconds(time: datetime | float) -> float:
    return time.timestamp() if isinstance(time, datetime) else time


def precision(width: float) -> int:
    """What the times of an interval of this width are rounded to; seconds both."""
    return max((each for each in PRECISIONS if 2 * each <= width), default=PRECISIONS[0])


def finish_text(eta: Interval, now: float | None = None) -> str:
    """``about 14:30, 14:20-14:50 · 20 min left``, in local time; ``later than expected`` once the interval is over.

    The estimate lies inside its interval, both at one precision, and neither lies in the past.

    :param now: seconds since the epoch; this process's clock unless given.
    """
    now = time.time() if now is None else now
    first, best, last = (_seconds(time) for time in (eta.earliest, eta.finish_at, eta.latest))
    if last <= now:
        return LATE
    step = precision(last - first)
    earliest = _rounded(max(first, now), step, math.floor)
    if earliest < now:
        earliest += step
    finish = max(earliest, _rounded(best, step, _half_up))
    latest = max(finish, _rounded(last, step, math.ceil))
    seconds = step < _MINUTE
    text = f"about {_clock(finish, now, seconds)}"
    if earliest != latest:
        text += f", {_clock(earliest, finish, seconds)}-{_clock(latest, finish, seconds)}"
    left = _half_up((max(best, now) - now) / step) * step
    return f"{text} · {duration(left)} left" if left else f"{text} · less than {duration(step)} left"


def duration(seconds: float) -> str:
    """``40 s``, ``3 min``, ``1 h 20 min``, ``2 d 4 h``."""
    if seconds < 1.5 * _MINUTE:
        return f"{max(1, _half_up(seconds))} s"
    minutes = _half_up(seconds / _MINUTE)
    if minutes < 60:
        return f"{minutes} min"
    return _parts(minutes, 60, "h", "min") if minutes < 24 * 60 else _parts(minutes // 60, 24, "d", "h")


def rough_duration(seconds: float) -> str:
    """``40 s``, ``3 min``, ``1 h``, ``2 d``: what is worth knowing of a time that is long ago."""
    return " ".join(duration(seconds).split()[:2])


def elapsed(seconds: float) -> str:
    """``0:07``, ``1:02:03``: as a clock that runs."""
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def clock(at: float, now: float) -> str:
    """A moment in local time, with the day where it is not today: ``14:32:05``, ``Tue 3 Nov 14:32:05``."""
    return _clock(at, now, seconds=True)


def printable(text: str) -> str:
    """A text on one line, without what a terminal would obey: a file's name may carry anything."""
    return "".join(each if each.isprintable() else " " for each in text)


def counted(number: int, word: str) -> str:
    """``1 document``, ``2 documents``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _parts(number: int, per: int, large: str, small: str) -> str:
    whole, rest = divmod(number, per)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"


def _half_up(number: float) -> int:
    """As JavaScript rounds."""
    return math.floor(number + 0.5)


def _rounded(at: float, step: int, how: Callable[[float], int]) -> float:
    """A moment on the local clock, rounded."""
    offset = datetime.fromtimestamp(at).astimezone().utcoffset()
    shift = offset.total_seconds() if offset is not None else 0.0
    return how((at + shift) / step) * step - shift


def _clock(at: float, of_day: float, seconds: bool) -> str:
    """``14:32``, with seconds where they are known, and with the day where it is not the day of the other moment."""
    moment, other = datetime.fromtimestamp(at), datetime.fromtimestamp(of_day)
    text = moment.strftime("%H:%M:%S" if seconds else "%H:%M")
    if moment.date() == other.date():
        return text
    # Not `strftime`: the language of the page is not that of the server.
    return f"{_WEEKDAYS[moment.weekday()]} {moment.day} {_MONTHS[moment.month - 1]} {text}"
