"""Settings of an app that make lost or doubled work likely, with the reason. Warned of once, when a worker starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import celery

from celery_progress_ext.config import TICK

#: Kombu's own, where an app says nothing. Seconds.
_VISIBILITY_DEFAULT = 3600
#: A gap between two parts of a chord that no job should have. Seconds.
_LONG_GAP = 7 * 86400
#: Whether this Celery has `result_chord_expires`; 5.7 brought it.
_HAS_CHORD_EXPIRES = celery.VERSION[:2] >= (5, 7)


@dataclass(frozen=True)
class Advice:
    """One setting: the condition under which it is risky, and why."""

    setting: str
    applies: Callable[[Mapping[str, Any]], bool]
    reason: str


def _visibility(conf: Mapping[str, Any]) -> float:
    return float((conf.get("broker_transport_options") or {}).get("visibility_timeout", _VISIBILITY_DEFAULT))


def _redis_broker(conf: Mapping[str, Any]) -> bool:
    return str(conf.get("broker_url") or "").startswith(("redis", "unix"))


def _expires(conf: Mapping[str, Any]) -> float:
    """``result_expires`` in seconds; 0: results are kept."""
    value = conf.get("result_expires") or 0
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _chord_forgets(conf: Mapping[str, Any]) -> bool:
    """Whether the count of a chord lives only for ``result_expires``, and that is short (F16)."""
    known = _HAS_CHORD_EXPIRES and conf.get("result_chord_expires") is not None
    return not known and 0 < _expires(conf) < _LONG_GAP


ADVICE: tuple[Advice, ...] = (
    Advice(
        "task_acks_late",
        lambda conf: not conf.get("task_acks_late"),
        "off: what a killed worker had taken is not delivered again, and waits for the reconciler",
    ),
    Advice(
        "task_reject_on_worker_lost",
        lambda conf: bool(conf.get("task_acks_late")) and not conf.get("task_reject_on_worker_lost"),
        "off: a chunk whose process is killed counts as failed in Celery's chord, which then never runs its body",
    ),
    Advice(
        "worker_prefetch_multiplier",
        lambda conf: int(conf.get("worker_prefetch_multiplier") or 0) != 1,
        "not 1: a busy process holds chunks that an idle one could work on, and the estimate of the end suffers",
    ),
    Advice(
        "broker_transport_options['visibility_timeout']",
        lambda conf: _redis_broker(conf) and _visibility(conf) <= float(conf.get("task_time_limit") or 0),
        "not longer than task_time_limit: Redis delivers a long chunk a second time while it still runs",
    ),
    Advice(
        "broker_transport_options['socket_timeout']",
        lambda conf: _redis_broker(conf) and not (conf.get("broker_transport_options") or {}).get("socket_timeout"),
        "not set: a Redis that goes silent holds up every publisher indefinitely, beat's tick too",
    ),
    Advice(
        "result_chord_expires",
        lambda conf: _HAS_CHORD_EXPIRES and _chord_forgets(conf),
        "not set: a chord whose parts come further apart than result_expires forgets its count; the reconciler then"
        " finishes the job. Set it, or result_expires, longer than a job takes",
    ),
    Advice(
        "result_chord_expires",
        lambda conf: not _HAS_CHORD_EXPIRES and _chord_forgets(conf),
        f"not known to Celery {celery.__version__} (5.7 has it): a chord whose parts come further apart than"
        " result_expires forgets its count; the reconciler then finishes the job. Set result_expires to a week",
    ),
    Advice(
        "worker_deduplicate_successful_tasks",
        lambda conf: bool(conf.get("worker_deduplicate_successful_tasks")),
        "on: a chunk killed between its result and its chord part is skipped when it comes again, and never counted",
    ),
    Advice(
        "beat_schedule",
        lambda conf: conf.get("beat_schedule") is not None and TICK not in conf["beat_schedule"],
        f"without {TICK!r}: it was set after CeleryProgress(app) had added the tick, so nothing that is lost is healed",
    ),
)


def advise(conf: Mapping[str, Any]) -> list[str]:
    """A sentence for every risky setting."""
    return [f"{advice.setting} is {advice.reason}" for advice in ADVICE if advice.applies(conf)]
