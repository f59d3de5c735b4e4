"""Log lines of a process that has not set up structlog."""

from __future__ import annotations

import logging

import pytest

from celery_progress_ext.log import get_logger


def test_a_line_goes_to_the_logger_of_its_module(caplog: pytest.LogCaptureFixture) -> None:
    """With its context, the place that logs, and nothing of ``%`` in it taken for a format."""
    caplog.set_level("INFO")
    get_logger("some.module").bind(job_id="j").warning("at_100_%s", pct=100)
    [record] = caplog.records
    assert (record.name, record.levelname) == ("some.module", "WARNING")
    assert record.getMessage() == "event='at_100_%s' job_id='j' pct=100"
    assert record.pathname == __file__


def test_the_level_of_that_logger_counts(caplog: pytest.LogCaptureFixture) -> None:
    """A worker with ``--loglevel WARNING`` is not told what is going well."""
    logging.getLogger("some.module").setLevel("WARNING")
    get_logger("some.module").info("job_created")
    assert caplog.records == []


def test_an_exception_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Through ``exception``, and through ``exc_info`` at any level."""
    logger = get_logger("some.module")
    try:
        raise ValueError("what went wrong")
    except ValueError:
        logger.exception("failed")
        logger.warning("failed", exc_info=True)
    assert caplog.text.count("ValueError: what went wrong") == 2
