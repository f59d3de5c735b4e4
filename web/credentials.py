"""Who may read which matter: keys, the start-up token, and where a request came from. No Flask in here."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from celery_progress_ext.exceptions import InvalidSetting

ANY_MATTER = "*"
DEFAULT_MATTER = "default"

_MATTER_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def valid_matter_id(text: str) -> bool:
    """Whether ``text`` can name a matter: 1 to 64 letters, digits, dots, underscores and hyphens."""
    return _MATTER_ID.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a credential opens."""

    #: The digest of the key; the start-up token's grant has the name START.
    id: str
    matters: frozenset[str]

    def allows(self, matter_id: str) -> bool:
        """Whether this grant opens ``matter_id``."""
        return ANY_MATTER in self.matters or matter_id in self.matters

    @property
    def everything(self) -> bool:
        """Whether it opens every matter, those too that do not exist yet."""
        return ANY_MATTER in self.matters

    @property
    def name(self) -> str:
        """For logs: enough to tell keys apart, too little to be one."""
        return self.id[:8]


#: The id of the grant that the start-up URL's token is exchanged for. It outlives the token, which is
#: another one after each start: whoever was let in stays in as long as the cookie's signature holds.
START = "start"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """All keys of a deployment, and its start-up token, as digests."""

    grants: Mapping[str, Grant] = field(default_factory=dict)
    start_token_digest: str | None = None

    @classmethod
    def from_keys(cls, keys: Mapping[str, Iterable[str]], *, start_token: str | None = None) -> Credentials:
        """From the keys and their matters, ``"*"`` for all of them.

        :raises InvalidSetting: for a matter that cannot be one; the message does not repeat the key.
        """
        for matters in keys.values():
            for matter in matters:
                if matter != ANY_MATTER and not valid_matter_id(matter):
                    raise InvalidSetting(
                        f"PROGRESS_API_KEYS: {matter!r} cannot be a matter; use 1 to 64 letters, digits, dots, "
                        'underscores and hyphens, or "*" for all matters'
                    )
        grants = {digest(key): Grant(id=digest(key), matters=frozenset(matters)) for key, matters in keys.items()}
        if start_token:
            grants[START] = Grant(id=START, matters=frozenset({ANY_MATTER}))
        return cls(grants=grants, start_token_digest=digest(start_token) if start_token else None)

    @property
    def configured(self) -> bool:
        """Whether anybody at all can get in."""
        return bool(self.grants)

    def by_key(self, key: str) -> Grant | None:
        """The grant of a key, or None. Takes the same time whichever key it is."""
        wanted, found = digest(key), None
        for known, grant in self.grants.items():
            if hmac.compare_digest(known.encode(), wanted.encode()):
                found = grant
        return found

    def by_id(self, grant_id: str) -> Grant | None:
        """The grant that a signed session names; None once its key was taken out of the configuration."""
        return self.grants.get(grant_id)

    def is_start_token(self, token: str) -> bool:
        """Whether ``token`` is the start-up URL's."""
        known = self.start_token_digest
        return known is not None and hmac.compare_digest(known.encode(), digest(token).encode())


def session_secret(keys: Mapping[str, Iterable[str]], start_token: str | None) -> str | None:
    """What signs session cookies where PROGRESS_SECRET_KEY is not set; None without any credential.

    Every process of the web application must come to the same one, so it is made from the configuration. Who
    knows one key of it cannot forge the session of another: a session names its key by digest.
    """
    if not keys and not start_token:
        return None
    material = json.dumps([sorted((key, sorted(matters)) for key, matters in keys.items()), start_token])
    return digest(f"session cookie {material}")


def digest(secret: str) -> str:
    """SHA-256 of a key or token, in hexadecimal."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def bearer_key(header: str | None) -> str | None:
    """The key in an ``Authorization: Bearer KEY`` header; None for any other."""
    scheme, _, key = (header or "").strip().partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def same_origin(*, sec_fetch_site: str | None, origin: str | None, host: str) -> bool:
    """Whether a request comes from our own page, or from no page at all.

    Browsers say where a request comes from (``Sec-Fetch-Site``, and ``Origin`` on every cross-origin POST);
    who sends neither is no browser, and cannot be made to send somebody else's cookie.
    """
    if sec_fetch_site is not None:
        return sec_fetch_site in ("same-origin", "none")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()
