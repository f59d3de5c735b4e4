"""For those who watch the service: is it alive, can it work, how much does it do. No credential is asked for, and
no job, matter or document is named.

Each answers within a second, whatever hangs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import redis
from flask import Blueprint, Flask, Response, current_app, jsonify
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_progress_ext import CeleryProgress
from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.exceptions import DatabaseNotMigrated
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.storage import lookups
from celery_progress_ext.storage.probes import write_nothing
from celery_progress_ext.storage.revisions import usable
from tasks.documents import DocumentStore
from web.bounded import Bounded, Late
from web.streams import open_streams

blueprint = Blueprint("health", __name__)

#: All questions together have so long; their own limits are longer, so that one that hangs is asked once. Seconds.
ANSWER_SECONDS = 0.7
#: Kinds of jobs whose finish times are scored: those that learned last.
_KINDS = 20
_SCORES_SECONDS = 0.2
_REDIS_TIMEOUT_SECONDS = 2.0
_TIMEOUTS = (TimeoutError, redis.TimeoutError)
_EXTENSION = "web_health"
OK, LATE, UNREACHABLE, LOCKED, NOT_MIGRATED = "ok", "late", "unreachable", "locked", "not migrated"


class Probes:
    """What the service stands on. A part's verdict is ``ok`` or a word for what is wrong with it."""

    def __init__(self, progress: CeleryProgress, store: DocumentStore) -> None:
        database = progress.database
        self._reads = Bounded(lambda: usable(database))
        self._writes = Bounded(lambda: write_nothing(database))
        self._redis = Bounded(partial(_ping, progress.settings.redis_url))
        self._queue = Bounded(partial(_connect, progress))
        self._store = Bounded(store.probe)
        self._counts = Bounded(lambda: lookups.counts_by_status(database))
        self._scores = Bounded(lambda: progress.estimate_scores(limit=_KINDS))

    def scores(self, seconds: float) -> list[dict[str, Any]]:
        """How right finish times have been, by kind of jobs; nothing where that cannot be read within so long."""
        found: dict[str, Any] = {}
        _verdict(self._scores.begin(), time.monotonic() + seconds, found, "scores")
        return found.get("scores") or []

    def verdicts(self) -> tuple[dict[str, str], Mapping[str, Mapping[str, int]] | None]:
        """Each part's, and the counts of jobs by status, None where they could not be read. All is asked at once."""
        deadline = time.monotonic() + ANSWER_SECONDS
        asked = {
            name: probe.begin()
            for name, probe in (
                ("database", self._reads),
                ("writes", self._writes),
                ("redis", self._redis),
                ("queue", self._queue),
                ("store", self._store),
                ("counts", self._counts),
            )
        }
        found: dict[str, Any] = {}
        verdicts = {name: _verdict(answer, deadline, found, name) for name, answer in asked.items()}
        if verdicts["database"] == OK and found["database"] is False:
            verdicts["database"] = NOT_MIGRATED
        writes = verdicts.pop("writes")
        if verdicts["database"] == OK and writes != OK:
            # What is read is there, and nothing can be changed.
            verdicts["database"] = LOCKED if writes == LATE else writes
        verdicts.pop("counts")
        return verdicts, found.get("counts")


def install(app: Flask, progress: CeleryProgress, store: DocumentStore) -> None:
    """Serve /healthz, /readyz and /metrics."""
    app.extensions[_EXTENSION] = Probes(progress, store)
    app.register_blueprint(blueprint)


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process lives. Asks nothing of anybody else."""
    return jsonify(status=OK)


@blueprint.get("/readyz")
def readyz() -> tuple[Response, int]:
    """What works now: 200 while documents are taken and jobs can be read, 503 otherwise, with each part's verdict."""
    checks, _ = _probes().verdicts()
    works = {
        "read": checks["database"] in (OK, LOCKED),
        "submit": checks["database"] == OK and checks["store"] == OK,
        "results": checks["database"] in (OK, LOCKED) and checks["store"] == OK,
        # Without Redis the streams read the database.
        "live": checks["redis"] == OK or checks["database"] in (OK, LOCKED),
        "progress": checks["database"] == OK and checks["store"] == OK and checks["queue"] == OK,
    }
    ready = works["read"] and works["submit"]
    status = "unavailable" if not ready else OK if all(verdict == OK for verdict in checks.values()) else "degraded"
    return jsonify(status=status, checks=checks, works=works), 200 if ready else 503


@blueprint.get("/metrics")
def metrics() -> Response:
    """For Prometheus. Counts cover the jobs that retention keeps, so they are gauges; they are left out while the
    database does not answer.
    """
    checks, rows = _probes().verdicts()
    lines = [
        *_gauge(
            "progress_up", "Parts that answer.", {f'{{part="{name}"}}': int(v == OK) for name, v in checks.items()}
        ),
        *_gauge("progress_open_streams", "Event streams open in this process.", {"": open_streams()}),
    ]
    if rows is not None:
        chunks = {status.value: sum(row[status.value] for row in rows.values()) for status in ChunkStatus}
        jobs = {status.value: rows[status.value]["jobs"] if status.value in rows else 0 for status in JobStatus}
        lines += [
            *_gauge("progress_jobs", "Jobs by status.", {f'{{status="{name}"}}': n for name, n in jobs.items()}),
            *_gauge("progress_chunks", "Chunks by status.", {f'{{status="{name}"}}': n for name, n in chunks.items()}),
            *_gauge("progress_pages_done", "Pages done.", {"": sum(row["pages"] for row in rows.values())}),
        ]
        lines += _estimates(_probes().scores(_SCORES_SECONDS))
    return Response("\n".join(lines) + "\n", content_type="text/plain; version=0.0.4; charset=utf-8")


#: Of a score: the gauge's text.
_SCORES = {
    "promises": "Promised finish times that were looked at, of the last jobs of a kind.",
    "error": "Median of |promised - actual| over the actual remaining time.",
    "held": "Share of 80 % intervals that held the end.",
    "width": "Median width of the interval over the actual remaining time.",
}


def _estimates(kinds: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for score, text in _SCORES.items():
        samples = {
            f'{{kind="{_label(kind["kind"])}",phase="{phase["phase"]}"}}': phase[score]
            for kind in kinds
            for phase in kind["phases"]
        }
        lines += _gauge(f"progress_eta_{score}", text, samples) if samples else []
    return lines


def _label(text: str) -> str:
    """As a label's value is escaped."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _probes() -> Probes:
    probes: Probes = current_app.extensions[_EXTENSION]
    return probes


def _verdict(answer: Callable[[float], Any], deadline: float, found: dict[str, Any], name: str) -> str:
    try:
        found[name] = answer(deadline - time.monotonic())
    except Late:
        return LATE
    except DatabaseNotMigrated:
        return NOT_MIGRATED
    except Exception as error:  # whatever the part's client raises
        return LATE if isinstance(error, _TIMEOUTS) or isinstance(error.__cause__, _TIMEOUTS) else UNREACHABLE
    return OK


def _ping(url: str | None) -> None:
    if url is None:
        return  # events stay in the process; there is nothing to reach
    with redis.Redis.from_url(
        url,
        socket_timeout=_REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=_REDIS_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    ) as client:
        client.ping()


def _connect(progress: CeleryProgress) -> None:
    with progress.app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=_REDIS_TIMEOUT_SECONDS)


def _gauge(name: str, text: str, samples: Mapping[str, float]) -> list[str]:
    values = [f"{name}{labels} {value}" for labels, value in samples.items()]
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge", *values]
