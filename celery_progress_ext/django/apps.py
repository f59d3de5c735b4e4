"""What Django does when it starts."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class ProgressConfig(AppConfig):
    """The app ``celery_progress``."""

    name = "celery_progress_ext.django"
    label = "celery_progress"
    verbose_name = "Background jobs"
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        """Track the jobs of the project's Celery app."""
        from celery_progress_ext.django import conf

        conf.set_up()
        checks.register(conf.check, "celery_progress")
