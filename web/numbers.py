"""Whole numbers in a request's query."""

from __future__ import annotations

from flask import request

from web.problems import Problem


def number(name: str, *, default: int, least: int, most: int) -> int:
    """The parameter's value.

    :raises Problem: 400 when it is not a whole number from ``least`` to ``most``.
    """
    text = request.args.get(name)
    if text is None:
        return default
    # Unicode has more digits than int() and databases agree on.
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not least <= value <= most:
        raise Problem(400, "bad-parameter", f"`{name}` must be a whole number from {least} to {most}.")
    return value
