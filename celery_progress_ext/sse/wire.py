"""Server-sent events as bytes, as https://html.spec.whatwg.org/multipage/server-sent-events.html defines them."""

from __future__ import annotations

import re

#: The only line ends of an event stream. ``str.splitlines`` also breaks at U+2028 and others, which are text here.
_LINE_END = re.compile(rb"\r\n|\r|\n")
#: What would end a field's line, and NUL, for which a browser ignores an id.
_UNSAFE = re.compile(r"[\r\n\0]")
_LAST_EVENT_ID = re.compile(r"[0-9]{1,19}", re.ASCII)


def encode(
    data: str | bytes | None = None,
    *,
    event: str | None = None,
    id: str | int | None = None,
    retry: int | None = None,
) -> bytes:
    """One event. Empty data is an event with empty data; None is none, so that the browser dispatches nothing.

    Line ends and NUL are taken out of ``event`` and ``id``: they would start a field, or an event, of their own.

    :param retry: milliseconds after which a browser reconnects.
    """
    lines: list[bytes] = []
    if event is not None:
        lines.append(b"event:" + _one_line(event))
    if data is not None:
        text = data.encode() if isinstance(data, str) else data
        # A reader takes one space after the colon away, so a line that begins with one needs another.
        lines.extend(b"data:" + (b" " if line[:1] == b" " else b"") + line for line in _LINE_END.split(text))
    if id is not None:
        lines.append(b"id:" + _one_line(str(id)))
    if retry is not None:
        lines.append(b"retry:%d" % retry)
    return b"\n".join(lines) + b"\n\n"


def without_name(event: bytes) -> bytes:
    """What :func:`encode` made, as an event without a name: the browser's default, ``message``."""
    return event.partition(b"\n")[2] if event.startswith(b"event:") else event


def comment(text: str = "") -> bytes:
    """A line that readers ignore; it keeps the connection, and finds out whether it is still there."""
    return b": " + _one_line(text) + b"\n\n" if text else b":\n\n"


def chunk(content: bytes) -> bytes:
    """``content`` as one chunk of an HTTP/1.1 body; the end of the body for none."""
    return b"%X\r\n%b\r\n" % (len(content), content)


def last_event_id(header: str | None) -> int | None:
    """The number in a ``Last-Event-ID`` header; None when there is none, or it is none that we have sent."""
    return int(header) if header is not None and _LAST_EVENT_ID.fullmatch(header) else None


def _one_line(value: str) -> bytes:
    return _UNSAFE.sub("", value).encode()
