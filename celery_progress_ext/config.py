"""One frozen ``Settings``, read once from the Celery configuration and the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from celery_progress_ext.exceptions import InvalidSetting

#: What a setting that is true or false may say, in the environment too.
_YES_OR_NO = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
#: What a list in the environment is separated by.
_SEPARATORS = re.compile(r"[\s,]+")
#: The annotation of a setting that is a list.
_LIST = "tuple[str, ...] | None"
#: A secret that signs tokens has at least so many characters.
MIN_SECRET_LENGTH = 16
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
#: The beat task: its name, and that of its entry in the schedule.
TICK = "celery_progress_ext.tick"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a deployment can change. Each is ``progress_<name>`` in Celery's configuration, or in capitals in the
    environment, which wins: code sets defaults, the deployment overrides them.
    """

    database_url: str = "sqlite:///progress.db"
    #: None: the result backend's, when that is Redis; else nothing is broadcast and readers poll the database.
    redis_url: str | None = None
    #: How long a chunk or body counts as alive after its last heartbeat, which comes at a third of it. Seconds.
    lease_seconds: float = 30.0
    #: The period of the beat task: heartbeats and reconciliation. Seconds.
    tick_seconds: float = 5.0
    #: No page progress for so long is called stalled. Seconds.
    stall_seconds: float = 120.0
    #: Starts of one chunk, and of the body, before it is given up.
    max_attempts: int = 3
    #: Jobs that ended longer ago are deleted with their chunks and events. Days.
    retention_days: float = 30.0
    #: Whether a prefork worker calls ``gc.freeze`` before it forks its children, so that they share more memory.
    gc_freeze: bool = True
    #: A queue of their own for bodies, while a worker listens to it; None: they go where the routes say.
    body_queue: str | None = None
    #: A group of this machine that shares the files which are made here (an SQLite database); None: their owner alone.
    files_group: str | None = None
    #: Sign the tokens that open one job or one matter: the first makes new ones, all are accepted. None: no tokens.
    token_secrets: tuple[str, ...] | None = field(default=None, repr=False)
    #: The origins of other sites whose pages may read with a token, such as ``https://shop.example``; ``*`` for all.
    allowed_origins: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for secret in self.token_secrets or ():
            if len(secret) < MIN_SECRET_LENGTH:
                raise InvalidSetting(
                    f"each of progress_token_secrets needs at least {MIN_SECRET_LENGTH} characters: "
                    "`python -c 'import secrets; print(secrets.token_urlsafe(32))'` prints a good one"
                )
        for origin in self.allowed_origins or ():
            if origin != "*" and not _is_origin(origin):
                raise InvalidSetting(
                    f"each of progress_allowed_origins is * or an origin like https://shop.example, not {origin!r}"
                )
        for name in ("lease_seconds", "tick_seconds", "stall_seconds", "max_attempts", "retention_days"):
            if getattr(self, name) <= 0:
                raise InvalidSetting(f"progress_{name} must be greater than 0, not {getattr(self, name)!r}")
        if self.redis_url is not None and not self.redis_url.startswith(_REDIS_SCHEMES):
            raise InvalidSetting("progress_redis_url must be a URL such as redis://127.0.0.1:6379/0")

    @classmethod
    def read(cls, conf: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
        """From a Celery app's ``conf`` and the environment.

        :raises InvalidSetting: when a value is not of the setting's type, or a number is not above zero.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for each in fields(cls):
            key = f"progress_{each.name}"
            value = environ.get(key.upper()) or conf.get(key)
            if value is not None:
                values[each.name] = _convert(key, value, each.default, is_list=each.type == _LIST)
        if values.get("redis_url") is None and str(conf.get("result_backend") or "").startswith(("redis", "unix")):
            values["redis_url"] = conf["result_backend"]
        return cls(**values)

    @property
    def heartbeat_seconds(self) -> float:
        """A lease is renewed at a third of it, so that two beats may be lost."""
        return self.lease_seconds / 3


def _convert(key: str, value: Any, default: Any, *, is_list: bool) -> Any:
    if is_list:
        texts = _SEPARATORS.split(value) if isinstance(value, str) else [str(each) for each in value]
        return tuple(text for text in texts if text) or None
    if default is None or isinstance(default, str):
        return str(value)
    if isinstance(default, bool):
        answer = _YES_OR_NO.get(str(value).lower())
        if answer is None:
            raise InvalidSetting(f"{key} must be true or false, not {value!r}")
        return answer
    try:
        return type(default)(value)
    except (TypeError, ValueError):
        raise InvalidSetting(f"{key} must be a number, not {value!r}") from None


def _is_origin(text: str) -> bool:
    """Whether it is what a browser sends as ``Origin``: a scheme, a host and perhaps a port, in lower case."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    host = parts.hostname is not None and "@" not in parts.netloc
    return host and parts.scheme in ("http", "https") and text == f"{parts.scheme}://{parts.netloc.lower()}"
