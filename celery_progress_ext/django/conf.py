"""The project's Celery app, and what the library takes from Django's settings.

``PROGRESS_…`` in the settings are the library's settings (``PROGRESS_LEASE_SECONDS = 10``); Celery's configuration and
the environment win over them. Two are this app's own: ``PROGRESS_CELERY_APP``, the dotted name of the Celery app where
it is not the current one, and ``PROGRESS_DATABASE``, the alias of the database that the tables are in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from celery import Celery, current_app
from django.conf import settings
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, connections
from django.http import HttpRequest
from django.utils.module_loading import import_string
from sqlalchemy.engine import URL

from celery_progress_ext.config import Settings
from celery_progress_ext.django import owner_of
from celery_progress_ext.exceptions import InvalidSetting, NotConfigured, ProgressError
from celery_progress_ext.extension import CeleryProgress
from celery_progress_ext.sse.answers import Access

#: Django's options of a PostgreSQL connection that are not the server's.
_DJANGO_S_OWN = frozenset({"pool", "isolation_level", "server_side_binding", "assume_role", "cursor_factory"})
_DATABASE_URL = "progress_database_url"

_NO_APP = (
    "No Celery app was found: import it in your project's __init__.py, as Celery's guide for Django says, or name it in"
    ' settings: PROGRESS_CELERY_APP = "proj.celery.app"'
)

Authorize = Callable[[HttpRequest, Access], bool]


def set_up() -> None:
    """Track the project's Celery app, unless it does so itself, and give it Django's settings."""
    app = find_app()
    if app is None:
        return
    app.add_defaults(defaults)
    try:
        CeleryProgress.of(app)
    except NotConfigured:
        CeleryProgress(app)


def progress() -> CeleryProgress:
    """The ``CeleryProgress`` of the project.

    :raises NotConfigured: where the project has no Celery app.
    """
    app = find_app()
    if app is None:
        raise NotConfigured(_NO_APP)
    return CeleryProgress.of(app)


def find_app() -> Celery | None:
    """The project's Celery app: that of the setting, else the one that was made last; None where there is none."""
    named = getattr(settings, "PROGRESS_CELERY_APP", None)
    if isinstance(named, str):
        found: Celery = import_string(named.replace(":", "."))
        return found
    if named is not None:
        return named
    # Where there is none, Celery makes one of this name.
    app: Celery = current_app._get_current_object()
    return None if app.main == "default" else app


def defaults() -> dict[str, Any]:
    """What Celery's configuration does not say."""
    found: dict[str, Any] = {}
    for each in fields(Settings):
        value = getattr(settings, f"PROGRESS_{each.name.upper()}", None)
        if value is not None:
            found[f"progress_{each.name}"] = value
    if _DATABASE_URL not in found and not os.environ.get(_DATABASE_URL.upper()):
        found[_DATABASE_URL] = database_url(connections[alias()].settings_dict)
    return found


def alias() -> str:
    """The database that the tables are in."""
    return str(getattr(settings, "PROGRESS_DATABASE", DEFAULT_DB_ALIAS))


def shares_django_s_database() -> bool:
    """Whether the library's tables are in the database of :func:`alias`, and not one that is named by a URL."""
    try:
        ours = database_url(connections[alias()].settings_dict)
    except InvalidSetting:
        return False
    return bool(progress().settings.database_url == ours)


def database_url(database: Mapping[str, Any]) -> str:
    """An entry of ``DATABASES`` as a URL.

    :raises InvalidSetting: where the library has no use for such a database.
    """
    engine = str(database["ENGINE"]).rpartition(".")[2]
    name = str(database["NAME"])
    if engine in ("sqlite3", "spatialite"):
        # In memory the library has one of its own: Django's tests keep theirs locked.
        return (
            "sqlite://"
            if in_memory(database)
            else URL.create("sqlite", database=os.path.abspath(name)).render_as_string()
        )
    if engine in ("postgresql", "postgis", "postgresql_psycopg2"):
        options = database.get("OPTIONS") or {}
        query = {key: str(value) for key, value in options.items() if key not in _DJANGO_S_OWN}
        host = str(database.get("HOST") or "")
        if host.startswith("/"):
            query["host"], host = host, ""
        port = str(database.get("PORT") or "")
        if port and not host:
            query["port"], port = port, ""
        return URL.create(
            f"postgresql+{_driver()}",
            username=str(database.get("USER") or "") or None,
            password=str(database.get("PASSWORD") or "") or None,
            host=host or None,
            port=int(port) if port else None,
            database=name,
            query=query,
        ).render_as_string(hide_password=False)
    raise InvalidSetting(
        f"The tables of jobs cannot be in a database of {engine}: name an SQLite or a PostgreSQL one in settings,"
        ' PROGRESS_DATABASE_URL = "postgresql://…", or the alias of one in DATABASES: PROGRESS_DATABASE = "…"'
    )


def in_memory(database: Mapping[str, Any]) -> bool:
    """Whether an entry of ``DATABASES`` is gone with its connection, as Django's tests have it."""
    name = str(database["NAME"])
    return ":memory:" in name or "mode=memory" in name


def _driver() -> str:
    """The one that Django uses."""
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    return "psycopg" if is_psycopg3 else "psycopg2"


def may_read(request: HttpRequest, job: Access) -> bool:
    """Whether a request may read a job: what ``PROGRESS_AUTHORIZE`` says, a callable or its dotted name; unless that is
    given, staff may, and the user that the job belongs to (:func:`celery_progress_ext.django.owner_of`).
    """
    return bool(_authorize()(request, job))


@cache
def _authorize() -> Authorize:
    given = getattr(settings, "PROGRESS_AUTHORIZE", None)
    found: Authorize = import_string(given) if isinstance(given, str) else given or staff_or_owner
    return found


def staff_or_owner(request: HttpRequest, job: Access) -> bool:
    """The default of ``PROGRESS_AUTHORIZE``."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return False
    return bool(user.is_staff) or job.owner == owner_of(user)


def check(app_configs: Sequence[Any] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Django's system check."""
    if find_app() is None:
        return [checks.Warning(_NO_APP, id="celery_progress.W001")]
    try:
        progress().settings  # noqa: B018
        _authorize()
    except (ProgressError, ImportError) as error:
        return [checks.Error(str(error), id="celery_progress.E001")]
    return []
