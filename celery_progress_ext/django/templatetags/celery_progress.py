"""``{% load celery_progress %}``, and then ``{% job_progress job %}`` where a job's bar is to stand."""

from __future__ import annotations

from typing import Any

from django import template
from django.urls import reverse
from django.utils.html import format_html

from celery_progress_ext.jobs import JobSnapshot

register = template.Library()


@register.simple_tag
def job_progress(job: Any, label: str = "", nonce: str = "") -> str:
    """A live bar: ``<job-progress>`` and its script, from the routes of ``celery_progress_ext.django.urls``.

    :param job: a ``TrackedJob`` or any ``AsyncResult``, a snapshot, a ``Job`` of the models, or an id.
    :param label: the job's name on the page.
    :param nonce: of the page's Content-Security-Policy.
    """
    job_id = job.job_id if isinstance(job, JobSnapshot) else getattr(job, "id", job)
    tag: str = format_html(
        '<script type="module" src="{}"{}></script><job-progress job="{}"{}></job-progress>',
        reverse("celery_progress:asset", kwargs={"name": "job-progress.js"}),
        format_html(' nonce="{}"', nonce) if nonce else "",
        job_id,
        format_html(' label="{}"', label) if label else "",
    )
    return tag
