"""A Django site in the test's process: configured once, with the library's app and the admin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import django
import sqlalchemy as sa
from django.conf import settings

if not settings.configured:
    settings.configure(
        SECRET_KEY="of the tests",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
            "celery_progress_ext.django",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        ROOT_URLCONF="tests.support.django_site",
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        USE_TZ=True,
    )
    django.setup()

from django.contrib import admin
from django.db import connections
from django.db.utils import load_backend
from django.urls import include, path

from celery_progress_ext.django import conf, views

urlpatterns = [path("admin/", admin.site.urls), path("progress/", include("celery_progress_ext.django.urls"))]


@contextmanager
def over(progress: Any, options: dict[str, Any], may_read: Callable[..., bool]) -> Iterator[Any]:
    """The views over another ``CeleryProgress``; what answers."""
    face = views.Face(**options)
    with (
        patch.object(conf, "progress", lambda: progress),
        patch.object(conf, "may_read", may_read),
        patch.object(views, "face", face),
    ):
        yield face


@contextmanager
def on_database(url: str) -> Iterator[None]:
    """Django's default database is the one that SQLAlchemy's ``url`` names."""
    made = sa.make_url(url)
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": made.database}
    if made.get_backend_name() == "postgresql":
        entry = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": made.database,
            "USER": made.username or "",
            "PASSWORD": made.password or "",
            "HOST": made.host or made.query.get("host", ""),
            "PORT": made.port or "",
        }
    before = connections["default"]
    settings_dict = {**before.settings_dict, **entry}
    connections["default"] = load_backend(settings_dict["ENGINE"]).DatabaseWrapper(settings_dict, "default")
    try:
        yield
    finally:
        connections["default"].close()
        connections["default"] = before


def everybody(request: Any, job: Any) -> bool:
    """A rule of a project."""
    return True
