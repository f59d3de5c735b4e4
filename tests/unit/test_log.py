"""Where the library's log lines go."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from celery_progress_ext.log import get_logger


@pytest.fixture(autouse=True)
def _not_set_up() -> Iterator[None]:
    before, configured = structlog.get_config(), structlog.is_configured()
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    if configured:
        structlog.configure(**before)


def test_without_a_set_up_they_go_to_the_module_s_logger(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker shows whatever is printed as a warning."""
    with caplog.at_level(logging.INFO, logger="celery_progress_ext.some"):
        get_logger("celery_progress_ext.some").info("chunk_completed", job_id="job_1", chunk_index=4)
    record = caplog.records[0]
    assert (record.name, record.levelname) == ("celery_progress_ext.some", "INFO")
    assert record.getMessage() == "event='chunk_completed' job_id='job_1' chunk_index=4"
    assert capsys.readouterr() == ("", "")


def test_a_line_keeps_its_percent_signs(caplog: pytest.LogCaptureFixture) -> None:
    """They are no format."""
    get_logger("celery_progress_ext.some").warning("at_100_%s", path="50%d")
    assert caplog.records[0].getMessage() == "event='at_100_%s' path='50%d'"


def test_the_level_of_the_module_s_logger_counts(caplog: pytest.LogCaptureFixture) -> None:
    """`-l WARNING` shows no line for each chunk."""
    with caplog.at_level(logging.WARNING, logger="celery_progress_ext"):
        get_logger("celery_progress_ext.some").info("chunk_completed")
    assert caplog.records == []


def test_an_error_keeps_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """With ``exc_info=True``."""
    try:
        raise ValueError("boom")
    except ValueError:
        get_logger("celery_progress_ext.some").warning("broken", exc_info=True)
    assert "ValueError: boom" in caplog.text


def test_an_application_that_set_up_structlog_gets_events() -> None:
    """Also when it does so after the library was imported."""
    logger, seen = get_logger("celery_progress_ext.some"), list[Any]()

    def keep(_logger: Any, _method: str, event: Any) -> Any:
        seen.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    logger.info("chunk_completed", chunk_index=4)
    assert seen == [{"event": "chunk_completed", "chunk_index": 4}]


def test_structlog_is_loaded_for_lines_that_somebody_sees() -> None:
    """A publisher at its default level does without; a warning loads it, and is seen."""
    code = """
import sys
from celery_progress_ext.log import get_logger
logger = get_logger("celery_progress_ext.some")
logger.info("job_created")
print("structlog" in sys.modules)
logger.warning("job_not_sent", job_id="job_1")
print("structlog" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["False", "True"], "event='job_not_sent' job_id='job_1'\n")
