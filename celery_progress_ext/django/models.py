"""The library's table of jobs, for Django to read. Nothing is written through it."""

from __future__ import annotations

from datetime import datetime

from django.db import models

from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.wording import moment


class Job(models.Model):
    """One tracked job."""

    id = models.CharField("ID", max_length=64, primary_key=True)
    owner = models.CharField(max_length=255, db_column="matter_id", null=True)
    subject = models.CharField(max_length=255, db_column="document_id", null=True)
    title = models.CharField(max_length=255, null=True)
    status = models.CharField(max_length=16, choices=[(each.value, each.value.capitalize()) for each in JobStatus])
    stage = models.TextField()
    progress_pct = models.IntegerField("percent")
    error = models.TextField(null=True)
    unit = models.CharField(max_length=32)
    pages_total = models.IntegerField("units in all")
    pages_done = models.IntegerField("units done")
    version = models.BigIntegerField()
    run = models.IntegerField()
    created_seconds = models.FloatField("created", db_column="created_at")
    finished_seconds = models.FloatField("finished", db_column="finished_at", null=True)

    class Meta:
        managed = False
        db_table = "processing_jobs"
        ordering = ("-created_seconds", "id")
        default_permissions = ("view",)
        permissions = (("retry_job", "Can retry what failed of a job"), ("cancel_job", "Can cancel a job"))

    def __str__(self) -> str:
        return f"{self.title or self.subject or self.id}: {self.stage}"

    @property
    def created_at(self) -> datetime:
        """When it was published."""
        return moment(self.created_seconds)

    @property
    def finished_at(self) -> datetime | None:
        """When it ended."""
        return None if self.finished_seconds is None else moment(self.finished_seconds)
