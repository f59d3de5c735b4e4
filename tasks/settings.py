"""One frozen ``ServiceSettings``, read from the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from celery_progress_ext.exceptions import InvalidSetting

#: What happens to a page that already carries text. What each mode does is told in ``tasks.pdf.render``.
MODES = ("skip", "redo", "force")

N = TypeVar("N", int, float)

_REDIS = "redis://127.0.0.1:6379/0"


def _default_documents_url() -> str:
    return (Path.cwd() / "var" / "documents").as_uri()


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What a deployment of the service can change; the progress library has its own (``PROGRESS_*``)."""

    broker_url: str = _REDIS
    result_backend: str = _REDIS
    #: An fsspec URL: ``file:///srv/documents``, ``s3://bucket/prefix``.
    documents_url: str = field(default_factory=_default_documents_url)
    #: Key → matters it may read, ``*`` for all.
    api_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    start_token: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    max_upload_mb: int = 500
    #: Uploads that a web process checks at once; each takes up to half a gigabyte of memory, and a core.
    max_preflights: int = 2
    ocr_engine: str = "tesseract"
    ocr_language: str = "eng"
    ocr_mode: str = "skip"
    ocr_dpi: int = 300
    ocr_chunk_pages: int = 25
    #: Seconds that rendering and recognising one page may take together.
    ocr_page_timeout: float = 120.0

    def __post_init__(self) -> None:
        for name in ("max_upload_mb", "max_preflights", "ocr_dpi", "ocr_chunk_pages", "ocr_page_timeout"):
            if getattr(self, name) <= 0:
                raise InvalidSetting(f"{name.upper()} must be greater than 0, not {getattr(self, name)!r}")
        if self.ocr_mode not in MODES:
            raise InvalidSetting(f"OCR_MODE must be one of {', '.join(MODES)}, not {self.ocr_mode!r}")

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> ServiceSettings:
        """From the environment; an empty variable counts as not set.

        :raises InvalidSetting: when a value is not of the setting's type, or out of its range.
        """
        given = {name: value for name, value in (os.environ if environ is None else environ).items() if value}
        return cls(
            broker_url=given.get("CELERY_BROKER_URL", _REDIS),
            result_backend=given.get("CELERY_RESULT_BACKEND", _REDIS),
            documents_url=given.get("DOCUMENTS_URL") or _default_documents_url(),
            api_keys=_api_keys(given.get("PROGRESS_API_KEYS", "{}")),
            start_token=given.get("PROGRESS_START_TOKEN"),
            secret_key=given.get("PROGRESS_SECRET_KEY"),
            max_upload_mb=_number(given, "MAX_UPLOAD_MB", cls.max_upload_mb),
            max_preflights=_number(given, "MAX_PREFLIGHTS", cls.max_preflights),
            ocr_engine=given.get("OCR_ENGINE", cls.ocr_engine),
            ocr_language=given.get("OCR_LANGUAGE", cls.ocr_language),
            ocr_mode=given.get("OCR_MODE", cls.ocr_mode),
            ocr_dpi=_number(given, "OCR_DPI", cls.ocr_dpi),
            ocr_chunk_pages=_number(given, "OCR_CHUNK_PAGES", cls.ocr_chunk_pages),
            ocr_page_timeout=_number(given, "OCR_PAGE_TIMEOUT", cls.ocr_page_timeout),
        )

    @property
    def max_upload_bytes(self) -> int:
        """``max_upload_mb`` in bytes; a megabyte is 1,000,000 of them."""
        return self.max_upload_mb * 1_000_000


def _number(given: Mapping[str, str], name: str, default: N) -> N:
    try:
        return type(default)(given.get(name, default))
    except ValueError:
        raise InvalidSetting(f"{name} must be a number, not {given[name]!r}") from None


def _api_keys(text: str) -> Mapping[str, tuple[str, ...]]:
    try:
        keys = json.loads(text)
    except ValueError:
        keys = None
    # A bare string would be taken for a list of its letters.
    if not isinstance(keys, dict) or not all(isinstance(matters, list) for matters in keys.values()):
        raise InvalidSetting('PROGRESS_API_KEYS must be a JSON object like {"key": ["matter", "…"]}')
    return MappingProxyType({key: tuple(str(matter) for matter in matters) for key, matters in keys.items()})
