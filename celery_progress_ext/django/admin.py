"""The list of jobs in Django's admin: read-only, with retry and cancel for those that may."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from celery_progress_ext.django import conf
from celery_progress_ext.django.models import Job
from celery_progress_ext.exceptions import ProgressError


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):
    """Jobs, newest first."""

    list_display = ("id", "title", "owner", "subject", "status", "stage", "progress_pct", "created", "finished")
    list_filter = ("status",)
    search_fields = ("id", "title", "owner", "subject")
    # A count of all jobs for each page of the list.
    show_full_result_count = False
    actions = ("retry", "cancel")
    fields = (
        "id",
        "title",
        "owner",
        "subject",
        "status",
        "stage",
        "progress_pct",
        "done",
        "error",
        "created",
        "finished",
        "run",
        "version",
    )
    readonly_fields = fields

    @admin.display(ordering="created_seconds")
    def created(self, job: Job) -> datetime:
        """When it was published."""
        return job.created_at

    @admin.display(ordering="finished_seconds")
    def finished(self, job: Job) -> datetime | None:
        """When it ended."""
        return job.finished_at

    @admin.display
    def done(self, job: Job) -> str:
        """How much of it."""
        return f"{job.pages_done} of {job.pages_total} {job.unit}"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Jobs are published, not added."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Workers change them."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Retention deletes them."""
        return False

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Those that were given ``celery_progress.retry_job``."""
        return bool(request.user.has_perm("celery_progress.retry_job"))

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Those that were given ``celery_progress.cancel_job``."""
        return bool(request.user.has_perm("celery_progress.cancel_job"))

    @admin.action(description="Retry what failed", permissions=["retry"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        """Run again only what failed."""
        self._do(request, queryset, "retry_failed", "{} will run again")

    @admin.action(description="Cancel", permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        """Stop what is queued or running."""
        self._do(request, queryset, "cancel", "{} cancelled")

    def _do(self, request: HttpRequest, jobs: QuerySet[Job], operation: str, said: str) -> None:
        done = 0
        for job in jobs:
            try:
                getattr(conf.progress(), operation)(job.id)
            except ProgressError as error:
                self.message_user(request, f"{job.id}: {error}", messages.WARNING)
            else:
                done += 1
        if done:
            self.message_user(request, said.format("1 job" if done == 1 else f"{done} jobs"), messages.SUCCESS)
