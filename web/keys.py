"""Keys over HTTP, for those with the role admin: what `python -m tasks keys` does.

An admin of some matters manages keys of these alone.
"""

from __future__ import annotations

import math
from typing import Any

import structlog
from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from tasks.cli.keys import public
from tasks.keys import ANY_MATTER, Role, valid_matter_id
from web.auth import key_ring, require_grant
from web.credentials import Grant
from web.problems import Problem

log = structlog.get_logger(__name__)
blueprint = Blueprint("keys", __name__)

_MOST_DAYS, _LONGEST_LABEL, _MOST_MATTERS = 36_500, 200, 1000
_FIELDS = {"matters", "role", "label", "days"}


@blueprint.get("/keys")
def index() -> Response:
    """The keys that open something now, oldest first; never the keys themselves."""
    admin = require_grant(Role.ADMIN)
    return jsonify([public(key) for key in key_ring().table.list() if _manages(admin, key.matters)])


@blueprint.post("/keys")
def add() -> tuple[Response, int]:
    """Make a key from a JSON object ``{"matters": […], "role", "label", "days"}``: 201 with the key, this once."""
    admin = require_grant(Role.ADMIN)
    given = _given()
    matters, role = tuple(given["matters"]), Role(given.get("role", Role.SUBMIT))
    if not _manages(admin, matters):
        raise Problem(403, "other-matter", "Your key does not open all of these matters.")
    seconds = None if given.get("days") is None else given["days"] * 24 * 3600
    added = key_ring().table.add(matters=matters, role=role, label=given.get("label", ""), seconds=seconds)
    log.info("key_added", key=added.record.id, by=admin.name, role=role.value, matters=matters)
    return jsonify({**public(added.record), "key": added.key}), 201


@blueprint.delete("/keys/<key_id>")
def revoke(key_id: str) -> tuple[str, int]:
    """Let a key open nothing any more: 204, or 404 where no key of these matters has this id."""
    admin = require_grant(Role.ADMIN)
    table = key_ring().table
    known = any(key.id == key_id and _manages(admin, key.matters) for key in table.list())
    if not known or not table.revoke(key_id):
        raise Problem(404, "key-not-found", "No key that opens anything has this id.")
    key_ring().forget()
    log.info("key_revoked", key=key_id, by=admin.name)
    return "", 204


def _manages(admin: Grant, matters: tuple[str, ...]) -> bool:
    return admin.everything or all(matter != ANY_MATTER and admin.allows(matter) for matter in matters)


def _given() -> dict[str, Any]:
    """The request's JSON object.

    :raises Problem: 400 for anything else.
    """
    try:
        given = request.get_json()
    except (BadRequest, UnsupportedMediaType):
        given = None
    if not isinstance(given, dict) or not given.keys() <= _FIELDS or not _right(given):
        raise Problem(
            400,
            "bad-key",
            "Send a JSON object with `matters` (a list of names, or of '*' for all), and perhaps `role` (read, submit "
            "or admin), `label` (at most 200 characters) and `days` (a number above 0).",
        )
    return given


def _right(given: dict[str, Any]) -> bool:
    matters, days, label = given.get("matters"), given.get("days"), given.get("label", "")
    return (
        isinstance(matters, list)
        and 0 < len(matters) <= _MOST_MATTERS
        and all(isinstance(each, str) and (each == ANY_MATTER or valid_matter_id(each)) for each in matters)
        and given.get("role", "read") in tuple(Role)
        and isinstance(label, str)
        and len(label) <= _LONGEST_LABEL
        and label.isprintable()
        and (
            days is None
            or (
                (isinstance(days, int | float) and not isinstance(days, bool))
                and math.isfinite(days)
                and 0 < days <= _MOST_DAYS
            )
        )
    )
