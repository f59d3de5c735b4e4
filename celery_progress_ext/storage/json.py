"""JSON as Celery's own serialiser has it: UUIDs, datetimes and Decimals come back as they were."""

from __future__ import annotations

from typing import Any

from kombu.utils import json as _json

kombu_json: Any = _json


def dumps(value: Any) -> str:
    """JSON text, without white space.

    :raises TypeError, ValueError: for what the serialiser does not take.
    """
    return str(kombu_json.dumps(value, separators=(",", ":")))


def loads(text: str | bytes) -> Any:
    """What :func:`dumps` was given."""
    return kombu_json.loads(text)
