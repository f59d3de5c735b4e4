"""Texts of the page and of the API are sent compressed to who takes that: a list of 50 documents is a tenth then.

Streams and results are left alone: parts of these can be asked for, and events must not wait in a buffer.
"""

from __future__ import annotations

import gzip

from flask import Flask, Response, request

_LEAST_BYTES = 1024
_MIME_TYPES = frozenset(
    {"application/json", "application/problem+json", "image/svg+xml", "text/css", "text/html", "text/javascript"}
)


def install(app: Flask) -> None:
    """Compress the answers of ``app``."""
    app.after_request(_compress)


def _compress(response: Response) -> Response:
    whole = request.path.startswith("/static/") or not response.is_streamed
    if not whole or response.mimetype not in _MIME_TYPES or response.status_code != 200:
        return response
    response.vary.add("Accept-Encoding")
    if not request.accept_encodings["gzip"] or (response.content_length or 0) < _LEAST_BYTES:
        return response
    response.direct_passthrough = False
    # No time stamp inside: the same answer is the same bytes.
    response.set_data(gzip.compress(response.get_data(), compresslevel=6, mtime=0))
    response.content_encoding = "gzip"
    etag, _ = response.get_etag()
    if etag is not None:
        response.set_etag(etag, weak=True)
    return response
