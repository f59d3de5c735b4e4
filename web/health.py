"""For those who watch the service: is it alive, can it work, how much does it do. No credential, no names in it."""

from __future__ import annotations

import redis
from flask import Blueprint, Response, jsonify

from celery_progress_ext import CeleryProgress
from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.exceptions import DatabaseError
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.storage import lookups
from celery_progress_ext.storage.revisions import usable
from web.jobs import progress
from web.streams import open_streams

blueprint = Blueprint("health", __name__)

_REDIS_TIMEOUT_SECONDS = 2.0
_READY = "ok"


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process lives. Asks nothing of anybody else."""
    return jsonify(status=_READY)


@blueprint.get("/readyz")
def readyz() -> tuple[Response, int]:
    """Whether requests can be served: 200, or 503 with what is missing."""
    checks = {"database": _database(progress()), "redis": _redis(progress())}
    ready = all(verdict == _READY for verdict in checks.values())
    return jsonify(status=_READY if ready else "unavailable", checks=checks), 200 if ready else 503


def _database(progress: CeleryProgress) -> str:
    try:
        return _READY if usable(progress.database) else "not migrated"
    except DatabaseError:
        return "unreachable"


def _redis(progress: CeleryProgress) -> str:
    url = progress.settings.redis_url
    if url is None:
        return _READY  # events stay in the process; there is nothing to reach
    try:
        with redis.Redis.from_url(
            url, socket_timeout=_REDIS_TIMEOUT_SECONDS, socket_connect_timeout=_REDIS_TIMEOUT_SECONDS
        ) as client:
            client.ping()
    except redis.RedisError:
        return "unreachable"
    return _READY


@blueprint.get("/metrics")
def metrics() -> Response:
    """The same for Prometheus. Counts cover the jobs that retention keeps, so they are gauges."""
    rows = lookups.counts_by_status(progress().database)
    chunks = {status.value: sum(row[status.value] for row in rows.values()) for status in ChunkStatus}
    jobs = {status.value: rows[status.value]["jobs"] if status.value in rows else 0 for status in JobStatus}
    lines = [
        *_gauge("progress_jobs", "Jobs by status.", {f'{{status="{name}"}}': count for name, count in jobs.items()}),
        *_gauge(
            "progress_chunks", "Chunks by status.", {f'{{status="{name}"}}': count for name, count in chunks.items()}
        ),
        *_gauge("progress_pages_done", "Pages done.", {"": sum(row["pages"] for row in rows.values())}),
        *_gauge("progress_open_streams", "Event streams open in this process.", {"": open_streams()}),
    ]
    return Response("\n".join(lines) + "\n", content_type="text/plain; version=0.0.4; charset=utf-8")


def _gauge(name: str, text: str, samples: dict[str, int]) -> list[str]:
    values = [f"{name}{labels} {value}" for labels, value in samples.items()]
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge", *values]
