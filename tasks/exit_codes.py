"""The exit codes of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from celery_progress_ext import JobStatus

USAGE = 2
REFUSED = 3
#: As a shell reports SIGINT.
INTERRUPTED = 130

BY_STATUS: Mapping[JobStatus, int] = MappingProxyType(
    {
        JobStatus.COMPLETED: 0,
        JobStatus.FAILED: 1,
        JobStatus.CANCELLED: 1,
        JobStatus.PARTIAL: 4,
    }
)
FAILED = BY_STATUS[JobStatus.FAILED]
#: Statuses that leave files behind.
HAS_OUTPUT = frozenset({JobStatus.COMPLETED, JobStatus.PARTIAL})
