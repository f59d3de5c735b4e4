"""Who may do what in which matter: grants of keys and of the start-up token; where a request came from. No Flask."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from tasks.keys import ANY_MATTER, KeyRecord, Role, check_matters, digest, valid_matter_id

__all__ = [
    "ANY_MATTER",
    "DEFAULT_MATTER",
    "START",
    "Credentials",
    "Grant",
    "bearer_key",
    "digest",
    "same_origin",
    "valid_matter_id",
]

DEFAULT_MATTER = "default"
#: The id of the grant that the start-up URL's token is exchanged for. It outlives the token, which is
#: another one after each start: whoever was let in stays in as long as the cookie's signature holds.
START = "start"


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a credential opens."""

    #: Of a key in the database its id, of one in the environment what is made from it and the secret.
    id: str
    matters: frozenset[str]
    role: Role = Role.SUBMIT
    #: Seconds since the epoch.
    expires_at: float | None = None

    @classmethod
    def of(cls, record: KeyRecord) -> Self:
        """What a key of the database opens."""
        return cls(id=record.id, matters=frozenset(record.matters), role=record.role, expires_at=record.expires_at)

    def allows(self, matter_id: str) -> bool:
        """Whether this grant opens ``matter_id``."""
        return ANY_MATTER in self.matters or matter_id in self.matters

    @property
    def everything(self) -> bool:
        """Whether it opens every matter, those too that do not exist yet."""
        return ANY_MATTER in self.matters

    @property
    def expired(self) -> bool:
        """Whether its time is over, by this machine's clock; the database's decides where it can be asked."""
        return self.expires_at is not None and self.expires_at <= time.time()

    @property
    def name(self) -> str:
        """For logs: enough to tell keys apart, too little to be one."""
        return self.id[:8]


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Keys and the start-up token, as digests."""

    #: By id.
    grants: Mapping[str, Grant] = field(default_factory=dict)
    #: Digest of a key → id of its grant.
    ids: Mapping[str, str] = field(default_factory=dict, repr=False)
    start_token_digest: str | None = field(default=None, repr=False)

    @classmethod
    def from_keys(cls, keys: Mapping[str, Iterable[str]], *, secret: str, start_token: str | None = None) -> Self:
        """From the keys of the environment and their matters, ``"*"`` for all of them.

        :param secret: makes a key's id, which stands in cookies: without it nobody can test guesses of the key on it.
        :raises InvalidSetting: for a matter that cannot be one; the message does not repeat the key.
        """
        for matters in keys.values():
            check_matters(matters, setting="PROGRESS_API_KEYS")
        ids = {digest(key): _id_of(key, secret) for key in keys}
        grants = {
            ids[digest(key)]: Grant(id=ids[digest(key)], matters=frozenset(matters)) for key, matters in keys.items()
        }
        if start_token:
            grants[START] = Grant(id=START, matters=frozenset({ANY_MATTER}), role=Role.ADMIN)
        return cls(grants=grants, ids=ids, start_token_digest=digest(start_token) if start_token else None)

    @classmethod
    def from_records(cls, records: Iterable[KeyRecord]) -> Credentials:
        """From the keys of the database."""
        records = tuple(records)
        return cls(
            grants={record.id: Grant.of(record) for record in records},
            ids={record.digest: record.id for record in records},
        )

    @property
    def configured(self) -> bool:
        """Whether anybody at all can get in."""
        return bool(self.grants)

    def by_key(self, key: str) -> Grant | None:
        """The grant of a key, or None. Takes the same time whichever key it is."""
        wanted, found = digest(key).encode(), None
        for known, grant_id in self.ids.items():
            if hmac.compare_digest(known.encode(), wanted):
                found = grant_id
        return None if found is None else self.by_id(found)

    def by_id(self, grant_id: str) -> Grant | None:
        """The grant that a signed session names; None once its key was revoked, taken out, or is over."""
        grant = self.grants.get(grant_id)
        return None if grant is None or grant.expired else grant

    def is_start_token(self, token: str) -> bool:
        """Whether ``token`` is the start-up URL's."""
        known = self.start_token_digest
        return known is not None and hmac.compare_digest(known.encode(), digest(token).encode())


def _id_of(key: str, secret: str) -> str:
    return hmac.new(secret.encode(), f"key {digest(key)}".encode(), hashlib.sha256).hexdigest()[:16]


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
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # no URL at all, such as http://[::1
        return False
