"""The id of the request that caused a task, from the web through the broker to every log line of the worker."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import structlog
from celery import Task, signals

#: The header of HTTP, and the name in messages and log lines.
HTTP_HEADER, NAME = "X-Request-ID", "request_id"
_VALID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def connect() -> None:
    """Let every message carry the id of its publisher, and every task's lines that of its message."""
    signals.before_task_publish.connect(_on_publish, weak=False)
    signals.task_prerun.connect(_on_prerun, weak=False)
    signals.task_postrun.connect(_on_postrun, weak=False)


def accepted(given: str | None) -> str:
    """The id that a proxy gave a request, or a new one where that cannot be one."""
    return given if given is not None and _VALID.fullmatch(given) else uuid4().hex


def _on_publish(headers: dict[str, Any] | None = None, **_: Any) -> None:
    known = structlog.contextvars.get_contextvars().get(NAME)
    if headers is not None and known is not None:
        headers.setdefault(NAME, known)


def _on_prerun(task: Task | None = None, **_: Any) -> None:
    found = getattr(task.request, NAME, None) if task is not None else None
    if isinstance(found, str) and _VALID.fullmatch(found):
        structlog.contextvars.bind_contextvars(**{NAME: found})


def _on_postrun(**_: Any) -> None:
    structlog.contextvars.unbind_contextvars(NAME)
