"""The library's log lines: through structlog as the application set it up, else to the standard library's ``logging``.

structlog without a set-up prints every line; a Celery worker takes what is printed for a warning, whatever its
``--loglevel``. So without one, lines go to the logger of their module, whose level counts. structlog is never imported
here, only found where the application imported it: with rich, which it loads when that is installed, it is 4 MB.
"""

from __future__ import annotations

import logging
import sys
from typing import Any


def get_logger(name: str) -> Any:
    """A logger with structlog's methods: ``logger.info("chunk_completed", job_id=…)``."""
    return _Logger(name)


class _Logger:
    def __init__(self, name: str) -> None:
        self._name = name
        self._plain = _PlainLogger(logging.getLogger(name))

    def __getattr__(self, method: str) -> Any:
        # Asked each time: an application may set up structlog after it imported the library.
        structlog = sys.modules.get("structlog")
        # While it is being imported it has not been set up either.
        is_configured = getattr(structlog, "is_configured", None)
        if structlog is not None and is_configured is not None and is_configured():
            return getattr(structlog.get_logger(self._name), method)
        return getattr(self._plain, method)


class _PlainLogger:
    """Lines as ``event='chunk_completed' job_id='…'``, as structlog's KeyValueRenderer writes them."""

    def __init__(self, logger: logging.Logger, context: dict[str, Any] | None = None) -> None:
        self._logger = logger
        self._context = context or {}

    def bind(self, **context: Any) -> _PlainLogger:
        return _PlainLogger(self._logger, {**self._context, **context})

    def debug(self, event: str, **context: Any) -> None:
        self._log(logging.DEBUG, event, context)

    def info(self, event: str, **context: Any) -> None:
        self._log(logging.INFO, event, context)

    def warning(self, event: str, **context: Any) -> None:
        self._log(logging.WARNING, event, context)

    def error(self, event: str, **context: Any) -> None:
        self._log(logging.ERROR, event, context)

    def exception(self, event: str, **context: Any) -> None:
        self._log(logging.ERROR, event, {"exc_info": True, **context})

    def _log(self, level: int, event: str, context: dict[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            exc_info = context.pop("exc_info", None)
            line = " ".join(f"{key}={value!r}" for key, value in {"event": event, **self._context, **context}.items())
            # Two frames up is the line that logs.
            self._logger.log(level, line, exc_info=exc_info, stacklevel=3)
