"""Revision 0005 of the library's tables."""

from __future__ import annotations

from django.db import migrations

from celery_progress_ext.django.revisions import to


class Migration(migrations.Migration):
    """Runs it."""

    dependencies = [("celery_progress", "0004_workers_queues")]  # noqa: RUF012
    operations = [to("0005")]  # noqa: RUF012
