"""Settings that make lost or doubled work likely are named, with the reason."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celery_progress_ext.worker import config_checks
from celery_progress_ext.worker.config_checks import advise

GOOD = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "broker_url": "redis://h",
    "broker_transport_options": {"visibility_timeout": 7200, "socket_timeout": 30},
    "task_time_limit": 3600,
    "result_expires": 604800,
    "worker_deduplicate_successful_tasks": False,
    "beat_schedule": {"celery_progress_ext.tick": {}},
}


def test_good_settings_need_no_word() -> None:
    """The ones that the documentation recommends."""
    assert advise(GOOD) == []


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"task_acks_late": False}, "task_acks_late"),
        ({"task_reject_on_worker_lost": False}, "task_reject_on_worker_lost"),
        ({"worker_prefetch_multiplier": 4}, "worker_prefetch_multiplier"),
        ({"broker_transport_options": {"visibility_timeout": 60, "socket_timeout": 30}}, "visibility_timeout"),
        ({"broker_transport_options": {"visibility_timeout": 7200}}, "socket_timeout"),
        ({"result_expires": timedelta(days=1)}, "result_chord_expires"),
        ({"worker_deduplicate_successful_tasks": True}, "worker_deduplicate_successful_tasks"),
        ({"beat_schedule": {"mine": {}}}, "beat_schedule"),
    ],
)
def test_each_risky_setting_gets_one_sentence(change: dict[str, object], setting: str) -> None:
    """That names it."""
    [sentence] = advise({**GOOD, **change})
    assert setting in sentence


def test_another_broker_has_no_visibility_timeout() -> None:
    """RabbitMQ delivers again when the connection closes, and has heartbeats."""
    assert advise({**GOOD, "broker_url": "amqp://h", "broker_transport_options": {"visibility_timeout": 1}}) == []


def test_results_that_are_kept_keep_the_count_of_a_chord() -> None:
    """As long as nothing expires, nothing is forgotten."""
    assert advise({**GOOD, "result_expires": None}) == []


@pytest.mark.parametrize(("known", "words"), [(True, ["not set"]), (False, ["not known to Celery"])])
def test_a_setting_that_this_celery_lacks_is_no_cure(
    known: bool, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`result_chord_expires` came with Celery 5.7; before, the sentence says what to set instead."""
    monkeypatch.setattr(config_checks, "_HAS_CHORD_EXPIRES", known)
    [sentence] = advise({**GOOD, "result_expires": 86400})
    assert all(word in sentence for word in [*words, "result_expires"])
    cured = advise({**GOOD, "result_expires": 86400, "result_chord_expires": 604800})
    assert (cured == []) is known
