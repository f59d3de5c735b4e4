"""Revision 0004 of the library's tables."""

from __future__ import annotations

from django.db import migrations

from celery_progress_ext.django.revisions import to


class Migration(migrations.Migration):
    """Runs it."""

    dependencies = [("celery_progress", "0003_counts_sending_endings")]  # noqa: RUF012
    operations = [to("0004")]  # noqa: RUF012
