"""Headers that every answer carries."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from flask import Flask, Response, request

#: Our own files only: no inline script or style, so a file name or an error text can never become one.
_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'; "
    "img-src 'self' data:"
)

_ALWAYS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    # The start-up URL carries a token; no other site is told where a request came from.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def install(app: Flask) -> None:
    """Add the headers to every answer of ``app`` that does not set its own."""
    app.after_request(_add)


def _add(response: Response) -> Response:
    if response.location:
        response.location = _within_this_site(response.location)
    for name, value in _ALWAYS.items():
        response.headers.setdefault(name, value)
    # What is shown depends on the credential and on the moment. Static files say for themselves.
    if not request.path.startswith("/static/"):
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def _within_this_site(location: str) -> str:
    """The path alone. Werkzeug's own redirects, such as that of ``//``, go to whatever the request calls the host."""
    target = urlsplit(location)
    return urlunsplit(("", "", f"/{target.path.lstrip('/')}", target.query, target.fragment))
