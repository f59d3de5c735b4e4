"""Credentials of requests: bearer keys, the session cookie, signing in and out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import structlog
from flask import Blueprint, Flask, Response, current_app, g, redirect, render_template, request, session, url_for
from flask.sessions import SecureCookieSessionInterface
from werkzeug.wrappers import Response as BaseResponse

from web.credentials import START, Credentials, Grant, bearer_key, same_origin, valid_matter_id
from web.one_time import OneTime
from web.problems import Problem

log = structlog.get_logger(__name__)
blueprint = Blueprint("auth", __name__)

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="progress"'}
_NOT_CONFIGURED = (
    "No credentials are configured, so every request is refused. Set PROGRESS_API_KEYS to a JSON object such as "
    '{"a-long-random-key": ["*"]} and restart, or start the service with `python -m tasks up`.'
)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Door:
    """What the guards of one app need."""

    credentials: Credentials
    start_tokens: OneTime


class _SessionCookie(SecureCookieSessionInterface):
    """Secure over https; named by port, because browsers share the cookies of one host among its ports."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure

    def get_cookie_name(self, app: Flask) -> str:
        _, _, port = request.host.partition(":")
        return f"progress_session_{port}" if port.isdigit() else "progress_session"


def install(app: Flask, door: Door, *, secret_key: str | None) -> None:
    """Guard every route of ``app`` under /api, and add /login and /logout."""
    app.extensions["web_door"] = door
    app.secret_key = secret_key
    app.session_interface = _SessionCookie()
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True,
        # Not Strict: a link to the page in a mail must find the person signed in. Requests that change
        # something are checked for their origin besides.
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=timedelta(days=7),
        SESSION_REFRESH_EACH_REQUEST=False,
    )
    app.before_request(_guard)
    app.register_blueprint(blueprint)


def authorize(matter_id: str) -> None:
    """Let the request through when its credential opens ``matter_id``.

    :raises Problem: 400 for what cannot be a matter, 401 without a credential, 403 for somebody else's matter.
    """
    grant = require_grant()
    if not valid_matter_id(matter_id):
        raise Problem(
            400,
            "bad-matter",
            "A matter is named by 1 to 64 letters, digits, dots, underscores and hyphens.",
        )
    if not grant.allows(matter_id):
        log.info("access_refused", grant=grant.name, path=request.path)
        raise Problem(403, "other-matter", "Your credential does not open this matter.")


def require_grant() -> Grant:
    """The grant of this request.

    :raises Problem: 401 when it has none.
    """
    grant = current_grant()
    if grant is None:
        raise Problem(401, "no-credential", _why_not(), headers=_CHALLENGE)
    return grant


def current_grant() -> Grant | None:
    """The grant of this request's key or session, or None. A key that is not known is not made good by a session."""
    if "grant" not in g:
        credentials = _door().credentials
        if "Authorization" in request.headers:
            key = bearer_key(request.headers["Authorization"])
            g.grant = credentials.by_key(key) if key else None
        else:
            g.grant = credentials.by_id(session.get("grant", "")) if current_app.secret_key else None
    grant: Grant | None = g.grant
    return grant


def let_in(grant: Grant) -> None:
    """Begin a session: the answer to this request sets the cookie."""
    session.clear()
    session.permanent = True
    session["grant"] = grant.id
    g.grant = grant
    log.info("signed_in", grant=grant.name)


def use_start_token(token: str) -> bool:
    """Exchange the start-up URL's token for a session; False when it is wrong or was used before."""
    door = _door()
    known = door.credentials.start_token_digest
    if known is None or not door.credentials.is_start_token(token) or not door.start_tokens.take(known):
        log.warning("start_token_refused")
        return False
    let_in(door.credentials.grants[START])
    return True


def login_page(message: str | None = None, *, status: int = 401) -> Response:
    """The form that takes a key."""
    configured = _door().credentials.configured
    page = render_template("login.html", message=message, configured=configured, why=_NOT_CONFIGURED)
    return Response(page, status=status, mimetype="text/html", headers=_CHALLENGE if status == 401 else None)


@blueprint.post("/login")
def login() -> BaseResponse:
    """Exchange a key for a session cookie."""
    grant = _door().credentials.by_key(request.form.get("key", "").strip())
    if grant is None:
        log.warning("sign_in_refused")
        return login_page("This key is not known here. Look for typing errors.")
    let_in(grant)
    return redirect(url_for("pages.index"), code=303)


@blueprint.post("/logout")
def logout() -> BaseResponse:
    """Forget the session."""
    session.clear()
    return redirect(url_for("pages.index"), code=303)


def _guard() -> None:
    """Runs before every request. A request under /api is refused before its body is read."""
    if request.method not in _SAFE_METHODS and "Authorization" not in request.headers:
        headers = request.headers
        if not same_origin(
            sec_fetch_site=headers.get("Sec-Fetch-Site"), origin=headers.get("Origin"), host=request.host
        ):
            raise Problem(403, "other-origin", "This request came from another site and was refused.")
    if request.path.startswith("/api/"):
        require_grant()


def _door() -> Door:
    door: Door = current_app.extensions["web_door"]
    return door


def _why_not() -> str:
    if not _door().credentials.configured:
        return _NOT_CONFIGURED
    if "Authorization" in request.headers:
        return "The key in the Authorization header is not known here."
    return "Sign in on the start page, or send an `Authorization: Bearer KEY` header."
