"""The JavaScript of the package, for pages: ``progress.js``, ``job-progress.js`` and what they import."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from celery_progress_ext.sse.answers import Answer, Refused

FOLDER = Path(__file__).parents[1] / "static"

_TYPES = {".js": "text/javascript; charset=utf-8", ".ts": "text/plain; charset=utf-8"}


def asset(name: str, *, if_none_match: str | None = None) -> Answer:
    """A file of the package; 304 where the client has it.

    :raises Refused: 404 for any other name.
    """
    found = _files().get(name)
    if found is None:
        raise Refused(404, "not-found", "There is no such file.")
    body, tag = found
    headers = {
        "Content-Type": _TYPES[Path(name).suffix],
        "ETag": tag,
        # Asked for again each time, for an answer of a few bytes: a release changes all of them together.
        "Cache-Control": "public, no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    if if_none_match is not None and tag in [each.strip().removeprefix("W/") for each in if_none_match.split(",")]:
        return Answer(status=304, headers=headers)
    return Answer(headers=headers, body=body)


def names() -> list[str]:
    """The files that there are."""
    return [*_files()]


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    return {
        path.name: (content, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
        for path in sorted(FOLDER.iterdir())
        if path.suffix in _TYPES
        for content in [path.read_bytes()]
    }
