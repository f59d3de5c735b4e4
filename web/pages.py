"""The one page, at the address of the list and of each document, and the way in with the start-up URL."""

from __future__ import annotations

from flask import Blueprint, current_app, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from web import auth
from web.credentials import DEFAULT_MATTER, Grant, valid_matter_id
from web.documents import jobs_of

blueprint = Blueprint("pages", __name__)

_USED = (
    "This start link was used before, or is from an earlier start: each opens the page once. On the machine that runs "
    "the service, stop it and start it again for a new link; or leave it running, make a key with "
    '`python -m tasks keys add --matter "*"`, and sign in with it here.'
)


@blueprint.get("/")
def index() -> str | BaseResponse:
    """The list, or the sign-in form. ``?token=`` is exchanged for a session and taken out of the address."""
    grant = auth.current_grant()
    token = request.args.get("token")
    if token is not None and request.method == "GET":
        if grant is None and not auth.use_start_token(token):
            return auth.login_page(_USED)
        return redirect(url_for("pages.index"))
    if grant is None:
        return auth.login_page(next=request.full_path)
    return _page(grant, _matter(grant))


@blueprint.get("/documents/<document_id>")
def document(document_id: str) -> str | BaseResponse:
    """The page of one document, or the sign-in form, which leads back to it."""
    grant = auth.current_grant()
    if grant is None:
        return auth.login_page(next=request.path)
    # One without a matter is another program's, and is shown by its address alone.
    return _page(grant, jobs_of(document_id)[0].matter_id or _matter(grant))


def _page(grant: Grant, matter: str) -> str:
    return render_template(
        "index.html",
        matter=matter,
        matters=[] if grant.everything else sorted(grant.matters),
        max_upload_bytes=current_app.config["MAX_UPLOAD_BYTES"],
    )


def _matter(grant: Grant) -> str:
    """The matter to show: the one asked for, where it can be, else ``default``, else the first."""
    asked = request.args.get("matter", "")
    if valid_matter_id(asked) and grant.allows(asked):
        return asked
    return DEFAULT_MATTER if grant.allows(DEFAULT_MATTER) else min(grant.matters, default=DEFAULT_MATTER)
