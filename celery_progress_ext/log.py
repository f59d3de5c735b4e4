"""The library's log lines: through structlog as the application set it up, else to the standard library's ``logging``.

structlog without a set-up prints every line; a Celery worker takes what is printed for a warning, whatever its
``--loglevel``. So without one, lines go to the logger of their module, whose level counts.
"""

from __future__ import annotations

from typing import Any

import structlog


def get_logger(name: str) -> Any:
    """A logger with structlog's methods: ``logger.info("chunk_completed", job_id=…)``."""
    return _Logger(name)


class _Logger:
    def __init__(self, name: str) -> None:
        self._applications = structlog.get_logger(name)
        self._plain = structlog.wrap_logger(
            structlog.stdlib.LoggerFactory()(name),  # which finds the line that logs
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        )

    def __getattr__(self, method: str) -> Any:
        # Asked each time: an application may set up structlog after it imported the library.
        return getattr(self._applications if structlog.is_configured() else self._plain, method)
