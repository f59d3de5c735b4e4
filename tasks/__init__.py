"""The document OCR service: a scanned PDF goes in, a searchable one comes out, page range by page range."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """``app``, for ``celery -A tasks``; only then, as the children that open PDF files have no use for Celery."""
    if name == "app":
        from tasks.celery_app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
