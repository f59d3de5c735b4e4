"""A Django migration for each revision of the library's tables; it runs the revision itself, on Django's connection."""

from __future__ import annotations

from typing import Any

from django.db import migrations

from celery_progress_ext.django import conf
from celery_progress_ext.storage.borrowed import driver_connection
from celery_progress_ext.storage.migrate import migrate, upgrade


def to(revision: str) -> migrations.RunPython:
    """The operation that upgrades the tables to ``revision``, where they are older.

    Those that ``celery progress migrate`` has upgraded already, or a newer version of the library, are left as they
    are. Backwards it does nothing: tables of a newer revision serve older code.
    """

    def run(apps: Any, schema_editor: Any) -> None:
        connection = schema_editor.connection
        if connection.alias != conf.alias():
            return
        if conf.shares_django_s_database():
            with driver_connection(conf.database_url(connection.settings_dict), connection.connection) as conn:
                upgrade(conn, revision)
        if not conf.shares_django_s_database() or conf.in_memory(connection.settings_dict):
            migrate(conf.progress().database)

    # An elidable one would be lost when migrations are squashed.
    return migrations.RunPython(run, migrations.RunPython.noop)
