"""The Django app: settings, tables, admin, template tag, and who may read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from celery import Celery

from celery_progress_ext import CeleryProgress, JobStatus
from celery_progress_ext.exceptions import InvalidSetting
from celery_progress_ext.sse.answers import Access
from celery_progress_ext.storage import Database
from celery_progress_ext.storage.migrate import migrate
from celery_progress_ext.storage.revisions import current, head, known
from celery_progress_ext.storage.schema import metadata
from tests.support import django_site
from tests.support.live import make_snapshot
from tests.support.processes import ROOT
from tests.support.rows import Rows

# After the site is configured.
from django.contrib.auth.models import AnonymousUser, Permission, User  # isort: skip
from django.core.checks import run_checks  # isort: skip
from django.core.management import call_command  # isort: skip
from django.db import connection  # isort: skip
from django.template import Context, Template  # isort: skip
from django.test import Client, RequestFactory, override_settings  # isort: skip

from celery_progress_ext.django import conf, owner_of  # isort: skip


@pytest.fixture
def site(database_url: str) -> Iterator[CeleryProgress]:
    """Django's default database is an empty one, on SQLite and on PostgreSQL (by psycopg 3, which Django prefers)."""
    with django_site.on_database(database_url):
        app = Celery("site", set_as_current=False, broker="memory://")
        progress = CeleryProgress(app)
        app.add_defaults(conf.defaults)
        with override_settings(PROGRESS_CELERY_APP=app):
            yield progress
        progress.database.dispose()


def columns(database: Database) -> dict[str, set[str]]:
    inspector = sa.inspect(database.engine)
    return {name: {column["name"] for column in inspector.get_columns(name)} for name in metadata.tables}


def test_every_revision_has_a_django_migration() -> None:
    """Add ``celery_progress_ext/django/migrations/NUMBER_name.py`` for a new one; it is like the one before."""
    folder = ROOT / "celery_progress_ext" / "django" / "migrations"
    assert sorted(path.name[:4] for path in folder.glob("0*.py")) == sorted(known())


def test_django_s_migrate_makes_the_tables(site: CeleryProgress, tmp_path: Path) -> None:
    """The same as the library's own, which then has nothing to do; and the models are as Django's migrations say."""
    call_command("migrate", verbosity=0)
    assert current(site.database) == head() == site.migrate()
    own = Database(f"sqlite:///{tmp_path / 'own.db'}")
    migrate(own)
    assert columns(site.database) == columns(own)
    own.dispose()
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_tables_that_are_there_are_left_as_they_are(site: CeleryProgress) -> None:
    """Made by `celery progress migrate`, or at a newer revision than this version of the library knows."""
    site.migrate()
    rows = Rows(site.settings.database_url, migrated=False)
    job_id = rows.create(2)
    with site.database.engine.begin() as conn:
        conn.execute(sa.text("UPDATE celery_progress_version SET version_num = '9999'"))
    call_command("migrate", verbosity=0)
    assert current(site.database) == "9999"
    assert rows.snapshots.get(job_id).chunks.total == 2
    rows.database.dispose()


def test_the_settings_say_where_the_tables_are() -> None:
    """An entry of DATABASES as a URL, for each driver and spelling; what cannot be used says what to do."""
    postgres = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "shop",
        "OPTIONS": {"sslmode": "require", "pool": True},
    }
    where = {"USER": "ann", "PASSWORD": "p@ss/word", "HOST": "db.example", "PORT": "5433"}
    url = "postgresql+psycopg://ann:p%40ss%2Fword@db.example:5433/shop?sslmode=require"
    assert conf.database_url({**postgres, **where}) == url
    assert (
        conf.database_url({**postgres, "HOST": "/run/pg"})
        == "postgresql+psycopg:///shop?host=%2Frun%2Fpg&sslmode=require"
    )
    sqlite = {"ENGINE": "django.db.backends.sqlite3"}
    assert conf.database_url({**sqlite, "NAME": Path("/srv/db.sqlite3")}) == "sqlite:////srv/db.sqlite3"
    assert conf.database_url({**sqlite, "NAME": "file:memorydb_default?mode=memory&cache=shared"}) == "sqlite://"
    with pytest.raises(InvalidSetting, match="PROGRESS_DATABASE_URL"):
        conf.database_url({"ENGINE": "django.db.backends.mysql", "NAME": "shop"})


def test_django_s_settings_are_the_library_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's configuration wins over them, and the environment over both."""
    app = Celery("settings", set_as_current=False, broker="memory://")
    app.conf.progress_stall_seconds = 7
    monkeypatch.setenv("PROGRESS_TICK_SECONDS", "3")
    given = {"PROGRESS_LEASE_SECONDS": 9, "PROGRESS_STALL_SECONDS": 8, "PROGRESS_TICK_SECONDS": 4}
    with override_settings(PROGRESS_CELERY_APP=app, **given):
        conf.set_up()
        settings = conf.progress().settings
    assert (settings.lease_seconds, settings.stall_seconds, settings.tick_seconds) == (9, 7, 3)


def test_what_is_wrong_is_found_by_the_system_check() -> None:
    """With a sentence that says what to do."""
    with patch.object(conf, "find_app", lambda: None):
        [warning] = run_checks(tags=["celery_progress"])
    assert warning.id == "celery_progress.W001"
    app = Celery("wrong", set_as_current=False, broker="memory://")
    with override_settings(PROGRESS_CELERY_APP=app, PROGRESS_DATABASE_URL="mysql://x"):
        conf.set_up()
        assert conf.progress().settings.database_url == "mysql://x"
    app = Celery("wrong", set_as_current=False, broker="memory://")
    with override_settings(PROGRESS_CELERY_APP=app, PROGRESS_LEASE_SECONDS=-1):
        conf.set_up()
        [error] = run_checks(tags=["celery_progress"])
    assert error.id == "celery_progress.E001"
    assert "progress_lease_seconds must be greater than 0" in error.msg


def request_of(user: Any) -> Any:
    made = RequestFactory().get("/")
    made.user = user
    return made


def test_staff_and_owners_may_read_unless_the_project_says_otherwise() -> None:
    """Nobody else, and nobody but staff reads a job without an owner, or that of a tenant."""
    job = Access(job_id="job_1", owner=owner_of(User(pk=7)), subject="s")
    tenants = Access(job_id="job_3", owner="7", subject="s")
    unowned = Access(job_id="job_2", owner=None, subject=None)
    conf._authorize.cache_clear()
    for user, reads, reads_unowned in (
        (User(pk=7), True, False),
        (User(pk=8), False, False),
        (User(pk=8, is_staff=True), True, True),
        (AnonymousUser(), False, False),
    ):
        assert conf.may_read(request_of(user), job) is reads
        assert conf.may_read(request_of(user), unowned) is reads_unowned
        assert conf.may_read(request_of(user), tenants) is reads_unowned
    conf._authorize.cache_clear()
    with override_settings(PROGRESS_AUTHORIZE="tests.support.django_site.everybody"):
        assert conf.may_read(request_of(AnonymousUser()), job)
    conf._authorize.cache_clear()


def test_the_tag_is_a_bar(site: CeleryProgress) -> None:
    """For a job however it is given; nothing of it is markup."""
    template = Template("{% load celery_progress %}{% job_progress job label=label %}")
    shown = template.render(Context({"job": 'x"><i>', "label": "Import <b>"}))
    assert shown == (
        '<script type="module" src="/progress/assets/job-progress.js"></script>'
        '<job-progress job="x&quot;&gt;&lt;i&gt;" label="Import &lt;b&gt;"></job-progress>'
    )
    for job in (make_snapshot(job_id="job_1"), site.job("job_1"), "job_1"):
        assert 'job="job_1"' in template.render(Context({"job": job}))


@pytest.fixture
def admin(site: CeleryProgress) -> Iterator[Client]:
    """Somebody that may see jobs, and no more."""
    call_command("migrate", verbosity=0)
    user = User.objects.create_user("ann", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_job"))
    client = Client()
    client.force_login(user)
    yield client
    connection.close()


def test_the_admin_lists_jobs_and_changes_none(admin: Client, site: CeleryProgress) -> None:
    """With their titles and times; a page of one says how much of it is done."""
    rows = Rows(site.settings.database_url, migrated=False)
    job_id = rows.create(4)
    listed = admin.get("/admin/celery_progress/job/").content.decode()
    assert job_id in listed and "Retry what failed" not in listed and "Add job" not in listed
    shown = admin.get(f"/admin/celery_progress/job/{job_id}/change/").content.decode()
    assert "0 of 100 pages" in shown and 'name="_save"' not in shown
    assert admin.get("/admin/celery_progress/job/?q=nothing").status_code == 200
    assert admin.post(f"/admin/celery_progress/job/{job_id}/delete/").status_code == 403
    rows.database.dispose()


def test_who_may_cancel_cancels_in_the_admin(admin: Client, site: CeleryProgress) -> None:
    """One by one; a job that is over already is named. Without the permission there is no such action."""
    rows = Rows(site.settings.database_url, migrated=False)
    running, over = rows.create(2), rows.create(2)
    site.cancel(over)
    chosen = {"action": "cancel", "_selected_action": [running, over]}
    admin.post("/admin/celery_progress/job/", chosen)
    assert rows.snapshots.get(running).status is JobStatus.PENDING
    User.objects.get().user_permissions.add(Permission.objects.get(codename="cancel_job"))
    answer = admin.post("/admin/celery_progress/job/", chosen, follow=True).content.decode()
    assert rows.snapshots.get(running).status is JobStatus.CANCELLED
    assert "1 job cancelled" in answer and over in answer
    rows.database.dispose()
