"""The service's settings come from the environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from celery_progress_ext.exceptions import InvalidSetting
from tasks import environment
from tasks.environment import check
from tasks.settings import ServiceSettings
from tests.support.processes import ROOT


def test_an_empty_environment_gives_the_defaults() -> None:
    """The service runs without any configuration."""
    settings = ServiceSettings.read({})
    assert (settings.ocr_dpi, settings.ocr_chunk_pages, settings.ocr_mode) == (300, 25, "skip")
    assert settings.documents_url.startswith("file://")
    assert settings.api_keys == {}


def test_the_environment_wins() -> None:
    """Each variable of the table."""
    settings = ServiceSettings.read(
        {
            "CELERY_BROKER_URL": "amqp://mq",
            "DOCUMENTS_URL": "s3://bucket",
            "PROGRESS_API_KEYS": '{"key-one-": ["m1", "m2"], "key-two-": ["*"]}',
            "MAX_UPLOAD_MB": "2",
            "OCR_PAGE_TIMEOUT": "1.5",
        }
    )
    assert (settings.broker_url, settings.documents_url) == ("amqp://mq", "s3://bucket")
    assert settings.api_keys == {"key-one-": ("m1", "m2"), "key-two-": ("*",)}
    assert (settings.max_upload_bytes, settings.ocr_page_timeout) == (2_000_000, 1.5)


def test_an_empty_variable_counts_as_not_set() -> None:
    """As process managers pass it."""
    assert ServiceSettings.read({"OCR_DPI": "", "PROGRESS_API_KEYS": ""}) == ServiceSettings.read({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OCR_DPI", "many"),
        ("OCR_DPI", "0"),
        ("OCR_DPI", "71"),
        ("OCR_DPI", "1e2"),
        ("OCR_ENGINE", "abbyy"),
        ("OCR_PAGE_TIMEOUT", "nan"),
        ("OCR_PAGE_TIMEOUT", "soon"),
        ("CELERY_BROKER_URL", "localhost"),
        ("OCR_MODE", "maybe"),
        ("MAX_UPLOAD_MB", "-1"),
        ("PROGRESS_API_KEYS", "secret"),
        ("PROGRESS_API_KEYS", '{"k": 3}'),
        ("PROGRESS_API_KEYS", '{"k": "m1"}'),
        ("PROGRESS_API_KEYS", '{"": ["*"]}'),
        ("PROGRESS_API_KEYS", '{"        ": ["*"]}'),
        ("PROGRESS_API_KEYS", '{"x": ["*"]}'),
        ("PROGRESS_API_KEYS", '{"xxxxxxxxxxxx": ["*"]}'),
        ("PROGRESS_API_KEYS", '{" key-one-": ["*"]}'),
        ("PROGRESS_API_KEYS", '{"key-one-": ["a/b"]}'),
        ("PROGRESS_SECRET_KEY", " "),
        ("PROGRESS_SECRET_KEY", "s"),
        ("PROGRESS_SECRET_KEY", "fifteen-letters"),
        ("PROGRESS_START_TOKEN", "t"),
        ("MAX_STREAMS_PER_ADDRESS", "0"),
        ("WEB_PROXIES", "-1"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    """At the start, not when the first document comes."""
    with pytest.raises(InvalidSetting, match=name):
        ServiceSettings.read({name: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PROGRESS_LEASE_SECONDS", "abc", "progress_lease_seconds must be a number"),
        ("PROGRESS_DATABASE_URL", "progress.db", "progress_database_url is no URL"),
        ("PROGRESS_REDIS_URL", "localhost", "progress_redis_url must be a URL"),
        ("PROGRESS_FILES_GROUP", "no-such-group", "no group 'no-such-group'"),
        ("CELERY_BROKER_URL", "carrier://pigeon", "no transport 'carrier'"),
        ("DOCUMENTS_URL", "shelf://3", "nothing here reads shelf://"),
        ("OCR_LANGUAGE", "xx", "OCR_LANGUAGE: 'xx' is no language of Tesseract"),
    ],
)
def test_what_a_setting_names_must_be_there(name: str, value: str, words: str) -> None:
    """The library's settings too."""
    with pytest.raises(InvalidSetting, match=words):
        check({name: value})


def test_a_store_whose_library_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything starts, with the extra that brings it."""
    assert check({"DOCUMENTS_URL": "s3://bucket/prefix"}).documents_url == "s3://bucket/prefix"
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(InvalidSetting, match=r"needs boto3; pip install 'celery-progress-ext\[s3\]'"):
        check({"DOCUMENTS_URL": "s3://bucket/prefix"})


@pytest.mark.parametrize("command", [["-m", "tasks", "migrate"], ["-m", "celery", "-A", "tasks.celery_app", "report"]])
def test_a_command_says_it_in_one_sentence(command: list[str]) -> None:
    """No traceback, whichever program it is."""
    env = {**os.environ, "OCR_DPI": "abc"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.strip() == "OCR_DPI must be a whole number from 72 to 600, not 'abc'."
