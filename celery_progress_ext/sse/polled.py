"""A job in the words of celery-progress (https://github.com/czue/celery-progress), for its published JavaScript.

Its client polls, draws ``progress``, and stops at ``complete``. ``percent`` is ``work_pct``: it never goes back, and is
100 only at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery_progress_ext.jobs import JobStatus

#: A job's status → Celery's state of the task that celery-progress would look at.
_STATES = {
    JobStatus.PENDING: "PENDING",
    JobStatus.PROCESSING: "PROGRESS",
    JobStatus.COMPLETED: "SUCCESS",
    # The body has run, and its result is there; what is missing is in the description.
    JobStatus.PARTIAL: "SUCCESS",
    JobStatus.FAILED: "FAILURE",
    JobStatus.CANCELLED: "REVOKED",
}


def unknown() -> dict[str, Any]:
    """What celery-progress says of an id that it does not know: nothing is there yet."""
    return {
        "state": "PENDING",
        "complete": False,
        "success": None,
        "progress": {"pending": True, "current": 0, "total": 100, "percent": 0},
    }


def info(snapshot: Mapping[str, Any], result: Callable[[], Any]) -> dict[str, Any]:
    """What celery-progress says of a job.

    :param snapshot: as on the wire.
    :param result: reads the body's result, where the job has one.
    """
    status = JobStatus(snapshot["status"])
    state = _STATES[status]
    if state == "PENDING":
        return unknown()
    if state == "PROGRESS":
        return {"state": state, "complete": False, "success": None, "progress": _at_work(snapshot)}
    success = state == "SUCCESS"
    progress: dict[str, Any] = {"pending": False, "current": 100, "total": 100, "percent": 100}
    if status is JobStatus.PARTIAL:
        progress["description"] = snapshot["error"]
    said = result() if success else snapshot["error"] or f"Task {snapshot['stage'].lower()}"
    return {"state": state, "complete": True, "success": success, "progress": progress, "result": said}


def _at_work(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    waiting = snapshot["waiting"]
    return {
        "pending": False,
        "current": snapshot["pages"]["done"],
        "total": snapshot["pages"]["total"],
        "percent": round(float(snapshot["work_pct"]), 2),
        "description": waiting["reason"] if waiting else snapshot["stage"],
    }
