"""Settings from Celery's configuration and the environment."""

from __future__ import annotations

import pytest

from celery_progress_ext.config import Settings
from celery_progress_ext.exceptions import InvalidSetting


def test_the_defaults_are_those_of_the_documentation() -> None:
    """Nothing configured: SQLite, a lease of 30 s, three attempts."""
    settings = Settings.read({}, {})
    assert settings == Settings()
    assert (settings.database_url, settings.lease_seconds, settings.tick_seconds) == ("sqlite:///progress.db", 30, 5)
    assert (settings.stall_seconds, settings.max_attempts, settings.retention_days) == (120, 3, 30)


def test_celery_configuration_keys_are_read() -> None:
    """`app.conf.progress_lease_seconds = 2`."""
    assert Settings.read({"progress_lease_seconds": 2}, {}).lease_seconds == 2.0


def test_the_environment_wins_over_the_code() -> None:
    """A deployment says what is so here, and says it in text."""
    settings = Settings.read({"progress_max_attempts": 3}, {"PROGRESS_MAX_ATTEMPTS": "5"})
    assert settings.max_attempts == 5


def test_redis_is_the_result_backends_unless_told_otherwise() -> None:
    """Only where that is Redis: a database backend has no pub/sub."""
    assert Settings.read({"result_backend": "redis://h/1"}, {}).redis_url == "redis://h/1"
    assert Settings.read({"result_backend": "db+sqlite:///x"}, {}).redis_url is None
    told = Settings.read({"result_backend": "redis://h/1", "progress_redis_url": "redis://other/2"}, {})
    assert told.redis_url == "redis://other/2"


@pytest.mark.parametrize("value", ["soon", "0", "-1"])
def test_a_value_that_cannot_be_used_says_which_setting(value: str) -> None:
    """Not a traceback from deep inside a worker."""
    with pytest.raises(InvalidSetting, match="progress_lease_seconds"):
        Settings.read({}, {"PROGRESS_LEASE_SECONDS": value})


@pytest.mark.parametrize(("said", "meant"), [("0", False), ("False", False), ("yes", True), (False, False)])
def test_a_setting_that_is_true_or_false_can_be_said_in_text(said: object, meant: bool) -> None:
    """`bool("0")` is true in Python, which no deployment means."""
    assert Settings.read({"progress_gc_freeze": said}, {}).gc_freeze is meant


def test_a_setting_that_is_neither_true_nor_false_is_refused() -> None:
    """With its name."""
    with pytest.raises(InvalidSetting, match="progress_gc_freeze must be true or false"):
        Settings.read({}, {"PROGRESS_GC_FREEZE": "perhaps"})


def test_a_lease_survives_two_lost_beats() -> None:
    """It is renewed at a third of its length."""
    assert Settings(lease_seconds=30).heartbeat_seconds == 10
