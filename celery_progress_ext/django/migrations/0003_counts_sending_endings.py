"""Revision 0003 of the library's tables."""

from __future__ import annotations

from django.db import migrations

from celery_progress_ext.django.revisions import to


class Migration(migrations.Migration):
    """Runs it."""

    dependencies = [("celery_progress", "0002_audited_version")]  # noqa: RUF012
    operations = [to("0003")]  # noqa: RUF012
