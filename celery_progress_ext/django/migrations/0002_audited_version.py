"""Revision 0002 of the library's tables."""

from __future__ import annotations

from django.db import migrations

from celery_progress_ext.django.revisions import to


class Migration(migrations.Migration):
    """Runs it."""

    dependencies = [("celery_progress", "0001_jobs_chunks_events")]  # noqa: RUF012
    operations = [to("0002")]  # noqa: RUF012
