"""The library's log lines: through structlog as the application set it up, else to the standard library's ``logging``.

structlog prints every line unless it was configured, and a Celery worker logs what is printed as a warning, whatever
its ``--loglevel``. So until an application configures structlog, lines go to the logger of their module.
"""

from __future__ import annotations

import logging
import sys
from functools import cached_property
from typing import Any

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def get_logger(name: str) -> Any:
    """A logger with structlog's methods: ``logger.info("chunk_completed", job_id=…)``."""
    return _Logger(name)


class _Logger:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        if "structlog" not in sys.modules and not self._heard(method):
            # Not configured, and the line would not be shown: not worth an import of 4 MB, with rich.
            return _unheard
        import structlog

        # Asked each time: an application may set it up after it imported the library.
        return getattr(structlog.get_logger(self._name) if structlog.is_configured() else self._plain, method)

    def _heard(self, method: str) -> bool:
        return logging.getLogger(self._name).isEnabledFor(_LEVELS.get(method, logging.CRITICAL))

    @cached_property
    def _plain(self) -> Any:
        import structlog

        return structlog.wrap_logger(
            logging.getLogger(self._name),
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        )


def _unheard(_event: str, **_context: Any) -> None:
    """In place of a logger's method."""
