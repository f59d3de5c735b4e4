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
from tasks.keys import MIN_SECRET_LENGTH, check_matters, check_strength

#: What happens to a page that already carries text. What each mode does is told in ``tasks.pdf.render``.
MODES = ("skip", "redo", "force")

_ABOVE_ZERO = (
    "max_streams",
    "max_streams_per_address",
    "max_streams_per_credential",
    "max_upload_mb",
    "max_preflights",
    "ocr_dpi",
    "ocr_chunk_pages",
    "ocr_queues",
    "ocr_page_timeout",
)

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
    #: What the web process listens on, and how many proxies before it add to ``X-Forwarded-For``.
    host: str = "127.0.0.1"
    web_proxies: int = 0
    #: A group of this machine that shares the documents; None: their owner alone reads them.
    files_group: str | None = None
    #: Event streams of one web process at once, and of these for one address and one credential.
    max_streams: int = 5000
    max_streams_per_address: int = 2500
    max_streams_per_credential: int = 2500
    max_upload_mb: int = 500
    #: Uploads that a web process checks at once; each takes up to half a gigabyte of memory, and a core.
    max_preflights: int = 2
    ocr_engine: str = "tesseract"
    ocr_language: str = "eng"
    ocr_mode: str = "skip"
    ocr_dpi: int = 300
    ocr_chunk_pages: int = 25
    #: Over how many queues the chunks of documents are spread: so many large ones share the workers evenly.
    ocr_queues: int = 4
    #: Seconds that rendering and recognising one page may take together.
    ocr_page_timeout: float = 120.0

    def __post_init__(self) -> None:
        for name in _ABOVE_ZERO:
            if getattr(self, name) <= 0:
                raise InvalidSetting(f"{name.upper()} must be greater than 0, not {getattr(self, name)!r}")
        if self.web_proxies < 0:
            raise InvalidSetting(f"WEB_PROXIES must not be below 0, not {self.web_proxies!r}")
        for key, matters in self.api_keys.items():
            check_strength(key, setting="A key in PROGRESS_API_KEYS")
            check_matters(matters, setting="PROGRESS_API_KEYS")
        if self.start_token is not None:
            check_strength(self.start_token, setting="PROGRESS_START_TOKEN")
        if self.secret_key is not None:
            check_strength(self.secret_key, setting="PROGRESS_SECRET_KEY", least=MIN_SECRET_LENGTH)
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
            host=given.get("HOST", cls.host),
            web_proxies=_number(given, "WEB_PROXIES", cls.web_proxies),
            files_group=given.get("PROGRESS_FILES_GROUP"),
            max_streams=_number(given, "MAX_STREAMS", cls.max_streams),
            max_streams_per_address=_number(given, "MAX_STREAMS_PER_ADDRESS", cls.max_streams_per_address),
            max_streams_per_credential=_number(given, "MAX_STREAMS_PER_CREDENTIAL", cls.max_streams_per_credential),
            max_upload_mb=_number(given, "MAX_UPLOAD_MB", cls.max_upload_mb),
            max_preflights=_number(given, "MAX_PREFLIGHTS", cls.max_preflights),
            ocr_engine=given.get("OCR_ENGINE", cls.ocr_engine),
            ocr_language=given.get("OCR_LANGUAGE", cls.ocr_language),
            ocr_mode=given.get("OCR_MODE", cls.ocr_mode),
            ocr_dpi=_number(given, "OCR_DPI", cls.ocr_dpi),
            ocr_chunk_pages=_number(given, "OCR_CHUNK_PAGES", cls.ocr_chunk_pages),
            ocr_queues=_number(given, "OCR_QUEUES", cls.ocr_queues),
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
