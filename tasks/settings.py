"""One frozen ``ServiceSettings``, read from the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from celery_progress_ext.exceptions import InvalidSetting
from tasks.engines import ENGINES
from tasks.keys import MIN_SECRET_LENGTH, check_matters, check_strength

#: What happens to a page that already carries text. What each mode does is told in ``tasks.pdf.render``.
MODES = ("skip", "redo", "force")

#: Below, no print can be read; above, Tesseract gains nothing, and memory runs out.
DPI = range(72, 601)
CHUNK_PAGES = range(1, 1001)
_COUNT = range(1, 10**6)

#: The numbers, each with what it may be.
_RANGES: Mapping[str, range] = MappingProxyType(
    {
        "web_proxies": range(100),
        "max_streams": _COUNT,
        "max_streams_per_address": _COUNT,
        "max_streams_per_credential": _COUNT,
        "max_upload_mb": _COUNT,
        "max_preflights": range(1, 1001),
        "ocr_dpi": DPI,
        "ocr_chunk_pages": CHUNK_PAGES,
        "ocr_queues": range(1, 1001),
    }
)
#: Seconds.
_LONGEST_PAGE = 24 * 3600.0

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
        for name, allowed in _RANGES.items():
            if getattr(self, name) not in allowed:
                raise InvalidSetting(_out_of(name.upper(), allowed, getattr(self, name)))
        if not 0 < self.ocr_page_timeout <= _LONGEST_PAGE:
            raise InvalidSetting(
                f"OCR_PAGE_TIMEOUT must be above 0 and at most {_LONGEST_PAGE:.0f} seconds, "
                f"not {self.ocr_page_timeout!r}."
            )
        for name in ("broker_url", "result_backend"):
            if "://" not in getattr(self, name):
                raise InvalidSetting(f"CELERY_{name.upper()} must be a URL, such as {_REDIS}.")
        for key, matters in self.api_keys.items():
            check_strength(key, setting="A key in PROGRESS_API_KEYS")
            check_matters(matters, setting="PROGRESS_API_KEYS")
        if self.start_token is not None:
            check_strength(self.start_token, setting="PROGRESS_START_TOKEN")
        if self.secret_key is not None:
            check_strength(self.secret_key, setting="PROGRESS_SECRET_KEY", least=MIN_SECRET_LENGTH)
        for name, choices in (("ocr_mode", MODES), ("ocr_engine", tuple(ENGINES))):
            if getattr(self, name) not in choices:
                raise InvalidSetting(
                    f"{name.upper()} must be one of {', '.join(choices)}, not {getattr(self, name)!r}."
                )

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
            web_proxies=_of(given, cls, "web_proxies"),
            files_group=given.get("PROGRESS_FILES_GROUP"),
            max_streams=_of(given, cls, "max_streams"),
            max_streams_per_address=_of(given, cls, "max_streams_per_address"),
            max_streams_per_credential=_of(given, cls, "max_streams_per_credential"),
            max_upload_mb=_of(given, cls, "max_upload_mb"),
            max_preflights=_of(given, cls, "max_preflights"),
            ocr_engine=given.get("OCR_ENGINE", cls.ocr_engine),
            ocr_language=given.get("OCR_LANGUAGE", cls.ocr_language),
            ocr_mode=given.get("OCR_MODE", cls.ocr_mode),
            ocr_dpi=_of(given, cls, "ocr_dpi"),
            ocr_chunk_pages=_of(given, cls, "ocr_chunk_pages"),
            ocr_queues=_of(given, cls, "ocr_queues"),
            ocr_page_timeout=_seconds(given, "OCR_PAGE_TIMEOUT", cls.ocr_page_timeout),
        )

    @property
    def max_upload_bytes(self) -> int:
        """``max_upload_mb`` in bytes; a megabyte is 1,000,000 of them."""
        return self.max_upload_mb * 1_000_000


def whole_number(given: Mapping[str, str], name: str, default: int, allowed: range) -> int:
    """A variable of the environment as a number; an empty one counts as not set.

    :raises InvalidSetting: where it is no whole number, or none that is allowed.
    """
    text = given.get(name) or str(default)
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if number not in allowed:
        raise InvalidSetting(_out_of(name, allowed, text))
    return number


def _of(given: Mapping[str, str], defaults: type[ServiceSettings], name: str) -> int:
    return whole_number(given, name.upper(), getattr(defaults, name), _RANGES[name])


def _out_of(name: str, allowed: range, value: object) -> str:
    return f"{name} must be a whole number from {allowed[0]} to {allowed[-1]}, not {value!r}."


def _seconds(given: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(given.get(name, default))
    except ValueError:
        raise InvalidSetting(f"{name} must be a number of seconds, not {given[name]!r}.") from None


def _api_keys(text: str) -> Mapping[str, tuple[str, ...]]:
    try:
        keys = json.loads(text)
    except ValueError:
        keys = None
    # A bare string would be taken for a list of its letters.
    if not isinstance(keys, dict) or not all(isinstance(matters, list) for matters in keys.values()):
        raise InvalidSetting('PROGRESS_API_KEYS must be a JSON object like {"key": ["matter", "…"]}')
    return MappingProxyType({key: tuple(str(matter) for matter in matters) for key, matters in keys.items()})
