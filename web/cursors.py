"""Where a page of a list ends, as a text in its link to the next one: opaque, and checked when it comes back."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime

from celery_progress_ext import JobSnapshot
from web.problems import Problem

_LONGEST = 200


def after(job: JobSnapshot) -> str:
    """The cursor of what comes behind a job."""
    return urlsafe_b64encode(f"{job.created_at.timestamp()!r} {job.job_id}".encode()).decode().rstrip("=")


def place(cursor: str) -> tuple[datetime, str]:
    """The ``created_at`` and the id of the job that a cursor was made from.

    :raises Problem: 400 for a text that is no cursor.
    """
    try:
        text = urlsafe_b64decode(cursor[:_LONGEST] + "=" * (-len(cursor[:_LONGEST]) % 4)).decode("ascii")
        seconds, job_id = text.split(" ")
        created_at = datetime.fromtimestamp(float(seconds), UTC)
    except (binascii.Error, ValueError, OverflowError, OSError):
        job_id = ""
    if not job_id or not job_id.isprintable():
        raise Problem(400, "bad-parameter", "`cursor` must be one from the `Link` of the page before.")
    return created_at, job_id
