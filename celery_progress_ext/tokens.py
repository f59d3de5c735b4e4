"""Tokens that open one job or one matter for a while, read-only: signed, so that nothing has to be kept of them.

A page of another site, or a client that sends no header (``EventSource``), reads with one. Times are those of this
machine's clock.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from itsdangerous import BadSignature, URLSafeSerializer

from celery_progress_ext.exceptions import InvalidSetting, InvalidToken

#: What every token begins with: no API key is taken for one, and a scanner for leaked secrets finds it.
PREFIX = "prog_"
DEFAULT_SECONDS = 3600.0
#: Base64 in Python skips what is none of it: one token must not have many spellings.
_FORM = re.compile(r"prog_[A-Za-z0-9_.-]{1,1024}", re.ASCII)
_SALT = "celery_progress_ext.tokens"

_NO_SECRET = (
    "Tokens need a secret: set progress_token_secrets to a long random text, the same in every process that makes or "
    "reads them. `python -c 'import secrets; print(secrets.token_urlsafe(32))'` prints one"
)


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a token opens."""

    #: Tells tokens apart; too little to be one.
    id: str
    #: The one job; None where the token opens a matter.
    job_id: str | None = None
    matter_id: str | None = None
    #: Seconds since the epoch.
    expires_at: float
    #: An id of the credential that it was made with, where the application gave one.
    issuer: str | None = None


class Tokens:
    """Makes and reads tokens.

    :param secrets: the first signs, all are accepted. To rotate: put a new one before the old, and take the old one out
        when its last token has expired.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._serializer = URLSafeSerializer(
            [*reversed(secrets)] or "",  # itsdangerous signs with the last
            salt=_SALT,
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
        self._any = bool(secrets)

    def for_job(self, job_id: str, *, expires: float | timedelta = DEFAULT_SECONDS, issuer: str | None = None) -> str:
        """A token for one job, its chunks and pages; the job need not be there yet.

        :param expires: seconds from now, or a timedelta.
        :raises InvalidSetting: without a secret.
        :raises ValueError: when ``expires`` is not above zero.
        """
        return self._make({"j": job_id}, expires, issuer)

    def for_matter(
        self, matter_id: str, *, expires: float | timedelta = DEFAULT_SECONDS, issuer: str | None = None
    ) -> str:
        """A token for every job of a matter, as :meth:`for_job`."""
        return self._make({"m": matter_id}, expires, issuer)

    def read(self, token: str) -> Claims:
        """What a token opens.

        :raises InvalidToken: when it is not ours, was changed, or has expired.
        """
        if not self._any or not _FORM.fullmatch(token):
            raise InvalidToken
        try:
            found = self._serializer.loads(token.removeprefix(PREFIX))
        except BadSignature:
            raise InvalidToken from None
        if found["e"] <= time.time():
            raise InvalidToken("This token has expired; ask for a new one.")
        return Claims(
            id=hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16],
            job_id=found.get("j"),
            matter_id=found.get("m"),
            expires_at=found["e"],
            issuer=found.get("k"),
        )

    def _make(self, scope: dict[str, str], expires: float | timedelta, issuer: str | None) -> str:
        if not self._any:
            raise InvalidSetting(_NO_SECRET)
        seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
        if not seconds > 0:
            raise ValueError(f"a token expires after more than 0 seconds, not {seconds!r}")
        claims: dict[str, Any] = {**scope, "e": round(time.time() + seconds, 3)}
        if issuer is not None:
            claims["k"] = issuer
        return PREFIX + str(self._serializer.dumps(claims))


def is_token(text: str) -> bool:
    """Whether a credential looks like a token, and not like a key."""
    return text.startswith(PREFIX)
