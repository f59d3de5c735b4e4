"""Revision 0006 of the library's tables."""

from __future__ import annotations

from django.db import migrations

from celery_progress_ext.django.revisions import to


class Migration(migrations.Migration):
    """Runs it."""

    dependencies = [("celery_progress", "0005_titles_listed")]  # noqa: RUF012
    operations = [to("0006")]  # noqa: RUF012
