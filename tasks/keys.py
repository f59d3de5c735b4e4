"""API keys: what one is, and how a good one is made. No SQL and no web in here."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from celery_progress_ext.exceptions import InvalidSetting

ANY_MATTER = "*"
#: A shorter key can be guessed in spite of the throttle.
MIN_KEY_LENGTH = 8
#: A shorter secret can be guessed without us: whoever has a cookie of their own can try secrets on it.
MIN_SECRET_LENGTH = 16
_MIN_DIFFERENT = 4

_MATTER_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PREFIX = "ocr"


def valid_matter_id(text: str) -> bool:
    """Whether ``text`` can name a matter: 1 to 64 letters, digits, dots, underscores and hyphens."""
    return _MATTER_ID.fullmatch(text) is not None


class Role(StrEnum):
    """What a key may do in its matters. Each role includes those before it."""

    #: See jobs, follow streams, fetch results.
    READ = "read"
    #: Hand in documents, retry and cancel jobs.
    SUBMIT = "submit"
    #: Make, list and revoke keys.
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether whoever has this role may do what ``other`` may."""
        return _LADDER.index(self) >= _LADDER.index(other)


_LADDER = tuple(Role)


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """A key as it is kept: never the key itself. Times are seconds since the epoch."""

    id: str
    digest: str
    label: str
    role: Role
    matters: tuple[str, ...]
    created_at: float
    expires_at: float | None = None


def make_key() -> tuple[str, str]:
    """A new key's id and the key, which contains it: ``("3f9c1a2b", "ocr_3f9c1a2b_…")``, with 256 random bits."""
    key_id = secrets.token_hex(4)
    return key_id, f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"


def digest(secret: str) -> str:
    """SHA-256 of a key or token, in hexadecimal."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def check_matters(matters: Iterable[str], *, setting: str) -> None:
    """Whether each is a matter, or ``"*"`` for all of them.

    :raises InvalidSetting: for the first that is not.
    """
    for matter in matters:
        if matter != ANY_MATTER and not valid_matter_id(matter):
            raise InvalidSetting(
                f"{setting}: {matter!r} cannot be a matter; use 1 to 64 letters, digits, dots, underscores and "
                'hyphens, or "*" for all matters'
            )


def check_strength(text: str, *, setting: str, least: int = MIN_KEY_LENGTH) -> None:
    """Whether a key or secret is worth the name. The message does not repeat it.

    :raises InvalidSetting: when it is blank, has spaces around it, is too short, or is one letter many times.
    """
    if not text.strip():
        said = "is blank; perhaps a variable in a template was not set"
    elif text != text.strip():
        said = "has white space around it, which a header would not carry"
    elif len(text) < least:
        said = f"has {len(text)} characters; use at least {least}, and better 32 random ones"
    elif len(set(text)) < _MIN_DIFFERENT:
        said = "repeats a few characters; use random ones"
    else:
        return
    raise InvalidSetting(
        f"{setting} {said}. `python -c 'import secrets; print(secrets.token_urlsafe(32))'` prints a good one"
    )
