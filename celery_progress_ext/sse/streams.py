"""What one client is sent, from the first byte to the end of its stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from celery_progress_ext.broadcast import job_channel, matter_channel
from celery_progress_ext.exceptions import JobNotFound
from celery_progress_ext.jobs import JobSnapshot
from celery_progress_ext.sse import wire
from celery_progress_ext.sse.hub import Frame, Hub, Mailbox, Notice, Published
from celery_progress_ext.sse.snapshot_reader import CurrentSnapshots

#: Milliseconds after which a browser reconnects: a lost stream, and one that was refused for want of room.
RETRY_MS = 2_000
SHED_RETRY_MS = 10_000

#: Sent at once, so that the headers go out and the browser knows that it is connected.
OPENING = wire.comment("ok") + wire.encode(retry=RETRY_MS)
#: Instead of 429 or 503, for which EventSource gives up for good.
SHED = wire.encode(retry=SHED_RETRY_MS)

# A keepalive goes out in two halves, each a whole line: the first write to a client that is gone still succeeds, the
# second fails. So it is noticed within one keepalive, not two.
_KEEPALIVE, _KEEPALIVE_REST = b":\n", b"\n"
_BETWEEN_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often a stream says something, and looks for itself where nothing is broadcast. Seconds."""

    keepalive_seconds: float = 15.0
    poll_seconds: float = 2.0


def job_stream(
    hub: Hub, current: CurrentSnapshots, pace: Pace, row: JobSnapshot, last_id: int | None, *, broadcasts: bool
) -> Iterator[bytes]:
    """A job's stream, to its terminal event.

    :param row: the job as just read; its reader is allowed to.
    :param last_id: the version that the client has, by its own word.
    :param broadcasts: whether other processes' snapshots reach the hub at all.
    """
    yield OPENING

    def look(since: float) -> list[Published]:
        found = current.of_job(row.job_id, since=since)
        return [] if found is None else [found]

    # JobNotFound: retention removed it meanwhile; a reconnect gets 404.
    with hub.connect([job_channel(row.job_id)]) as mailbox, suppress(JobNotFound):
        published = current.after(row)
        if last_id is not None and last_id >= published.version:
            mailbox.mark(published.job_id, published.version)
        elif frame := mailbox.take(published):
            yield frame.wire
        if published.terminal:
            return
        for frame in _follow(hub, mailbox, pace, look, broadcasts=broadcasts):
            if frame is None:
                yield from _keepalive()
                continue
            yield frame.wire
            if frame.terminal:
                return


def matter_stream(
    hub: Hub, current: CurrentSnapshots, pace: Pace, matter_id: str, *, broadcasts: bool
) -> Iterator[bytes]:
    """All jobs of a matter, beginning with the open ones; it has no end, and its events no ids."""
    yield OPENING
    # What this client believes to be running: its end is looked for when it may have been missed.
    running: dict[str, None] = {}

    def look(since: float) -> list[Published]:
        found = current.of_matter(matter_id)
        listed = {published.job_id for published in found}
        for job_id in [job_id for job_id in running if job_id not in listed]:
            try:
                ended = current.of_job(job_id, since=since)
            except JobNotFound:
                del running[job_id]
            else:
                found += [] if ended is None else [ended]
        return found

    def noted(frame: Frame) -> bytes:
        running[frame.job_id] = None
        if frame.terminal:
            del running[frame.job_id]
        return frame.wire

    with hub.connect([matter_channel(matter_id)], numbered=False) as mailbox:
        for published in current.of_matter(matter_id):
            if frame := mailbox.take(published):
                yield noted(frame)
        for part in _follow(hub, mailbox, pace, look, broadcasts=broadcasts):
            if part is None:
                yield from _keepalive()
            else:
                yield noted(part)


def _follow(
    hub: Hub, mailbox: Mailbox, pace: Pace, look: Callable[[float], list[Published]], *, broadcasts: bool
) -> Iterator[Frame | None]:
    """Frames as they come, and what ``look`` finds when some may have been missed; None when a keepalive is due."""
    said_at = time.monotonic()
    while True:
        polling = not (broadcasts and hub.connected)
        wait = max(said_at + pace.keepalive_seconds - time.monotonic(), 0.0)
        item = mailbox.get(min(wait, pace.poll_seconds) if polling else wait)
        if item is Notice.CLOSED:
            return
        if isinstance(item, Frame):
            frames = [item]
        else:
            # The connection changed, or nothing came. A broadcast may be lost, so look at the rows.
            since = hub.changed_at if item is Notice.RESYNC else time.monotonic() - pace.poll_seconds / 2
            frames = _news(mailbox, look(since), signs_of_life=polling and item is None)
        yield from frames
        if frames:
            said_at = time.monotonic()
        elif time.monotonic() >= said_at + pace.keepalive_seconds:
            yield None
            said_at = time.monotonic()


def _keepalive() -> Iterator[bytes]:
    yield _KEEPALIVE
    time.sleep(_BETWEEN_SECONDS)
    yield _KEEPALIVE_REST


def _news(mailbox: Mailbox, found: list[Published], *, signs_of_life: bool) -> list[Frame]:
    frames = []
    for published in found:
        frame = mailbox.take(published)
        if frame is not None:
            frames.append(frame)
        elif signs_of_life and not published.terminal and published.version == mailbox.marked(published.job_id):
            # Nothing else shows this client that the job lives.
            frames.append(published.heartbeat)
    return frames
