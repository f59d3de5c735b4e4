"""Server-sent events, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_progress_ext.sse import wire


def parse(stream: bytes) -> list[dict[str, str]]:
    """Events as the HTML standard has a browser dispatch them."""
    events: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    content: list[str] = []
    for line in stream.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line:
            if content:
                events.append({**fields, "data": "\n".join(content)})
            fields, content = {}, []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            content.append(value)
        elif name:
            fields[name] = value
    return events


def test_an_event_has_its_fields_in_flask_sse_s_order() -> None:
    """event, data, id, retry, and an empty line."""
    assert wire.encode("x", event="progress", id=42, retry=500) == b"event:progress\ndata:x\nid:42\nretry:500\n\n"


def test_empty_data_is_an_event() -> None:
    """A browser dispatches `data:` with nothing after it, but not an event without it."""
    assert wire.encode("") == b"data:\n\n"
    assert wire.encode(retry=2000) == b"retry:2000\n\n"


def test_id_zero_is_kept() -> None:
    """Zero is a version."""
    assert wire.encode("x", id=0) == b"data:x\nid:0\n\n"


def test_only_line_ends_of_the_standard_split_data() -> None:
    """U+2028 is text: a browser would not put the line together again."""
    encoded = wire.encode("a\nb\rc\r\nd\u2028e\x0bf")
    assert encoded == "data:a\ndata:b\ndata:c\ndata:d\u2028e\x0bf\n\n".encode()


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\0"])
def test_no_field_can_smuggle_in_an_event(end: str) -> None:
    """A line end in a name or an id would begin a field of its own."""
    encoded = wire.encode("x", event=f"a{end}data:evil", id=f"1{end}{end}data:evil")
    assert [event["data"] for event in parse(encoded)] == ["x"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_arrives_as_it_was(text: str) -> None:
    """But for its line ends, which all become one line feed."""
    [event] = parse(wire.encode(text, event="e", id=1))
    assert event["data"] == text.replace("\r\n", "\n").replace("\r", "\n")


def test_bytes_are_sent_as_they_are() -> None:
    """JSON that is encoded already is not encoded again."""
    assert wire.encode('{"a":"é"}'.encode()) == 'data:{"a":"é"}\n\n'.encode()


def test_a_comment_dispatches_nothing() -> None:
    """It only keeps the connection."""
    assert wire.comment() == b":\n\n"
    assert wire.comment("ok\nnot a field") == b": oknot a field\n\n"
    assert parse(wire.comment("ok")) == []


@pytest.mark.parametrize(
    ("header", "version"),
    [
        (None, None),
        ("", None),
        ("42", 42),
        ("0", 0),
        ("9" * 19, int("9" * 19)),
        ("9" * 20, None),
        ("-1", None),
        ("4 2", None),
        ("42\n", None),
        ("٤٢", None),
        ("0x10", None),
    ],
)
def test_last_event_id_is_a_version_or_nothing(header: str | None, version: int | None) -> None:
    """What we have not sent is ignored, not refused: the client gets the current snapshot."""
    assert wire.last_event_id(header) == version
