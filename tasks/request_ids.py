"""The id of the request that caused a task, from the web through the broker to every log line of the worker."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

import structlog
from celery import current_task, signals

#: The header of HTTP, and the name in messages and log lines.
HTTP_HEADER, NAME = "X-Request-ID", "request_id"
_VALID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def connect() -> None:
    """Let every message that a request or a task publishes carry the id."""
    signals.before_task_publish.connect(_on_publish, weak=False)


def accepted(given: str | None) -> str:
    """The id that a proxy gave a request, or a new one where that cannot be one."""
    return given if given is not None and _usable(given) else uuid4().hex


def add_to_line(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: the id of the request, or of the message of the task, that writes this line."""
    if NAME not in line and (found := _current()) is not None:
        line[NAME] = found
    return line


def _on_publish(headers: dict[str, Any] | None = None, **_: Any) -> None:
    if headers is not None and (found := _current()) is not None:
        headers.setdefault(NAME, found)


def _current() -> str | None:
    found = structlog.contextvars.get_contextvars().get(NAME)
    if found is None and current_task:
        found = getattr(current_task.request, NAME, None)
    return found if _usable(found) else None


def _usable(given: Any) -> bool:
    return isinstance(given, str) and _VALID.fullmatch(given) is not None
