"""The one page, and the way in with the start-up URL."""

from __future__ import annotations

from flask import Blueprint, current_app, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from web import auth
from web.credentials import DEFAULT_MATTER, Grant, valid_matter_id

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def index() -> str | BaseResponse:
    """The page, or the sign-in form. ``?token=`` is exchanged for a session and taken out of the address."""
    grant = auth.current_grant()
    token = request.args.get("token")
    if token is not None and request.method == "GET":
        if grant is None and not auth.use_start_token(token):
            return auth.login_page(
                "This start link was used before, or is from an earlier start. "
                "Restart the service for a new link, or sign in with a key."
            )
        return redirect(url_for("pages.index"))
    if grant is None:
        return auth.login_page()
    return render_template(
        "index.html",
        matter=_matter(grant),
        matters=[] if grant.everything else sorted(grant.matters),
        max_upload_bytes=current_app.config["MAX_UPLOAD_BYTES"],
    )


def _matter(grant: Grant) -> str:
    """The matter to show: the one asked for, where it can be, else ``default``, else the first."""
    asked = request.args.get("matter", "")
    if valid_matter_id(asked) and grant.allows(asked):
        return asked
    return DEFAULT_MATTER if grant.allows(DEFAULT_MATTER) else min(grant.matters, default=DEFAULT_MATTER)
