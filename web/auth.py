"""Credentials of requests: bearer keys, the session cookie, signing in and out."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import timedelta

import structlog
from flask import Blueprint, Flask, Response, current_app, g, redirect, render_template, request, session, url_for
from flask.sessions import SecureCookieSessionInterface
from werkzeug.wrappers import Response as BaseResponse

from celery_progress_ext.exceptions import InvalidToken
from celery_progress_ext.sse.answers import Refused, Request
from celery_progress_ext.sse.routes import ROUTES, check_opens, token_of
from tasks.keys import Role
from web import logs
from web.credentials import START, Grant, bearer_key, same_origin, valid_matter_id
from web.key_ring import KeyRing
from web.one_time import OneTime
from web.problems import Problem
from web.service_tokens import ServiceTokens
from web.throttle import RETRY_SECONDS, SignInThrottle

log = structlog.get_logger(__name__)
blueprint = Blueprint("auth", __name__)

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="progress"'}
_NOT_CONFIGURED = (
    "No credentials are configured, so every request is refused. Make a key with `python -m tasks keys add`, set "
    'PROGRESS_API_KEYS to a JSON object such as {"a-long-random-key": ["*"]} and restart, or start the service with '
    "`python -m tasks up`."
)
_UNREADABLE = "The database does not answer, so no key can be looked up. Try again soon."
_TOO_MANY = (
    "Too many sign-ins from your address failed. Try again in a minute.",
    {"Retry-After": str(RETRY_SECONDS)},
)
_SESSION = timedelta(days=7)
#: Nothing in it depends on who reads it.
_OPEN = frozenset({"openapi.show", "progress_events.asset"})
#: What asks for a credential.
_CLOSED = ("/api/", "/celery-progress/")
#: What a token may be brought to; each of them reads it, and asks it for the job or the matter.
READ_WITH_TOKEN = frozenset(
    {
        "job_pages.index",
        "job_pages.text",
        *(f"progress_events.{route.name}" for route in ROUTES),
    }
)
#: Where a sign-in may lead: to pages of ours.
_ADDRESS = re.compile(r"/(documents/[\w.-]+|\?[\w.=&%+-]*)?", re.ASCII)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Door:
    """What the guards of one app need."""

    keys: KeyRing
    start_tokens: OneTime
    tokens: ServiceTokens
    throttle: SignInThrottle


class _SessionCookie(SecureCookieSessionInterface):
    """Secure over https; named by port, because browsers share the cookies of one host among its ports."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure

    def get_cookie_name(self, app: Flask) -> str:
        _, _, port = request.host.rpartition(":")
        return f"progress_session_{port}" if port.isdigit() else "progress_session"


def install(app: Flask, door: Door, *, secret_key: str) -> None:
    """Guard every route of ``app`` under /api, and add /login and /logout."""
    app.extensions["web_door"] = door
    app.secret_key = secret_key
    app.session_interface = _SessionCookie()
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True,
        # Not Strict: a link to the page in a mail must find the person signed in. Requests that change
        # something are checked for their origin besides.
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=_SESSION,
        SESSION_REFRESH_EACH_REQUEST=False,
    )
    app.before_request(_guard)
    app.register_blueprint(blueprint)


def authorize(matter_id: str | None, role: Role = Role.READ) -> None:
    """Let the request through when its credential opens ``matter_id``, and has this role there. Without a matter, which
    only a job has that another program published, it must open every matter.

    :raises Problem: 400 for what cannot be a matter, 401 without a credential, 403 for somebody else's matter, or where
        the role is too small.
    """
    grant = require_grant(role)
    if matter_id is not None and not valid_matter_id(matter_id):
        raise Problem(
            400,
            "bad-matter",
            "A matter is named by 1 to 64 letters, digits, dots, underscores and hyphens.",
        )
    if not (grant.everything if matter_id is None else grant.allows(matter_id)):
        log.info("access_refused", grant=grant.name, path=logs.path())
        raise Problem(403, "other-matter", "Your credential does not open this matter.")


def authorize_reading(job_id: str, matter_id: str | None) -> None:
    """Let the request read a job: with a token that opens it, else as :func:`authorize`.

    :raises Problem: 401 or 403.
    """
    token = _token()
    if token is None:
        authorize(matter_id)
        return
    try:
        check_opens(tokens().read(token), job_id=job_id, matter_id=matter_id)
    except InvalidToken as error:
        raise Problem(401, "token", str(error), headers=_CHALLENGE) from None
    except Refused as refused:
        raise Problem(refused.status, refused.kind, refused.detail) from None


def require_grant(role: Role = Role.READ) -> Grant:
    """The grant of this request.

    :raises Problem: 401 when it has none, 403 when its role is smaller than this, 429 when too many keys from its
        address were wrong, 503 when it is not known yet which keys there are.
    """
    grant = current_grant()
    if grant is None:
        if not _door().keys.known and _offers_a_credential():
            raise Problem(503, "keys-unreadable", _UNREADABLE)
        raise Problem(401, "no-credential", _why_not(), headers=_CHALLENGE)
    if not grant.role.includes(role):
        log.info("access_refused", grant=grant.name, path=logs.path(), role=grant.role.value)
        raise Problem(403, "role", f"Your key has the role {grant.role.value}, and this needs the role {role.value}.")
    return grant


def current_grant() -> Grant | None:
    """The grant of this request's key or session, or None. A key that is not known is not made good by a session."""
    if "grant" not in g:
        if "Authorization" in request.headers:
            key = bearer_key(request.headers["Authorization"])
            g.grant = _try_key(key) if key else None
        elif "grant" in session:
            g.grant = _door().keys.by_session(str(session["grant"]), str(session.get("id", "")))
        else:
            g.grant = None
    grant: Grant | None = g.grant
    return grant


def key_ring() -> KeyRing:
    """The keys of this application."""
    return _door().keys


def tokens() -> ServiceTokens:
    """Makes and reads the tokens of this application."""
    return _door().tokens


def credential_id() -> str | None:
    """The id of this request's credential, for counting; None without one."""
    grant = current_grant()
    return None if grant is None else grant.id


def _try_key(key: str) -> Grant | None:
    """The grant of a key, or None; wrong ones are counted by address and logged.

    :raises Problem: 429 when the address has tried too many.
    """
    door, address = _door(), request.remote_addr or "unknown"
    if door.throttle.refuses(address, key):
        log.warning("sign_in_throttled", address=address)
        sentence, headers = _TOO_MANY
        raise Problem(429, "too-many-sign-ins", sentence, headers=headers)
    grant = door.keys.by_key(key)
    if grant is not None:
        door.throttle.succeeded(address, key)
    elif door.keys.known:
        door.throttle.failed(address)
        log.warning("sign_in_refused", address=address)
    return grant


def let_in(grant: Grant) -> None:
    """Begin a session: the answer to this request sets the cookie."""
    session.clear()
    session.permanent = True
    session["grant"] = grant.id
    # Known here alone: with it the session can be ended before its cookie is.
    session["id"] = secrets.token_hex(16)
    g.grant = grant
    log.info("signed_in", grant=grant.name, address=request.remote_addr)


def use_start_token(token: str) -> bool:
    """Exchange the start-up URL's token for a session; False when it is wrong or was used before."""
    door = _door()
    address = request.remote_addr or "unknown"
    credentials = door.keys.environment
    known = credentials.start_token_digest
    if door.throttle.refuses(address, token):
        log.warning("sign_in_throttled", address=address)
        return False
    if known is None or not credentials.is_start_token(token) or not door.start_tokens.take(known):
        door.throttle.failed(address)
        log.warning("start_token_refused", address=address)
        return False
    let_in(credentials.grants[START])
    return True


def login_page(message: str | None = None, *, status: int = 401, next: str = "") -> Response:
    """The form that takes a key.

    :param next: the address within this site where it leads.
    """
    configured = _door().keys.configured
    page = render_template("login.html", message=message, configured=configured, why=_NOT_CONFIGURED, next=next)
    return Response(page, status=status, mimetype="text/html", headers=_CHALLENGE if status == 401 else None)


@blueprint.post("/login")
def login() -> BaseResponse:
    """Exchange a key for a session cookie, and go on to ``next``."""
    next = request.form.get("next", "")
    try:
        grant = _try_key(request.form.get("key", "").strip())
    except Problem as problem:
        page = login_page(str(problem.description), status=problem.code or 429, next=next)
        page.headers.extend(problem.extra_headers)
        return page
    if grant is None and not _door().keys.known:
        return login_page(_UNREADABLE, status=503, next=next)
    if grant is None:
        return login_page("This key is not known here. Look for typing errors.", next=next)
    let_in(grant)
    return redirect(next if _ADDRESS.fullmatch(next) else url_for("pages.index"), code=303)


@blueprint.post("/logout")
def logout() -> BaseResponse:
    """End the session: its cookie opens nothing any more, wherever a copy of it is."""
    if session.get("id"):
        _door().keys.end_session(str(session["id"]), seconds=_SESSION.total_seconds())
        log.info("signed_out", address=request.remote_addr)
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
    if not request.path.startswith(_CLOSED) or request.endpoint in _OPEN:
        return
    if request.method == "OPTIONS" and request.endpoint in READ_WITH_TOKEN:
        return  # a browser that asks whether a page of another site may bring a token, without one
    if _token() is None:
        require_grant()
    elif request.endpoint not in READ_WITH_TOKEN:
        raise Problem(403, "token-reads-only", "A token opens what a job's state is, its events and its pages.")


def _token() -> str | None:
    """The token that the request brings, in its address or as a bearer; not looked at yet."""
    in_path = (request.view_args or {}).get("token")
    return in_path if in_path is not None else token_of(Request(query=request.args, headers=request.headers))


def _door() -> Door:
    door: Door = current_app.extensions["web_door"]
    return door


def _offers_a_credential() -> bool:
    return "Authorization" in request.headers or "grant" in session


def _why_not() -> str:
    if not _door().keys.configured:
        return _NOT_CONFIGURED
    if "Authorization" in request.headers:
        return "The key in the Authorization header is not known here."
    if "grant" in session or "Sec-Fetch-Mode" in request.headers:
        return "Your session has ended, or never began. Sign in on the start page."
    return "Sign in on the start page, or send an `Authorization: Bearer KEY` header."
