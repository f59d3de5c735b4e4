"""Tokens that hold no longer than the key or session that they were made with."""

from __future__ import annotations

from collections.abc import Sequence

from flask import g

from celery_progress_ext import InvalidToken
from celery_progress_ext.tokens import Claims, Tokens
from web.key_ring import KeyRing
from web.problems import Problem


class ServiceTokens(Tokens):
    """Reads the tokens of requests. One that was made without a key (``progress.token`` in a program) needs none."""

    def __init__(self, secrets: Sequence[str], keys: KeyRing) -> None:
        super().__init__(secrets)
        self._keys = keys

    def read(self, token: str) -> Claims:
        """See ``Tokens.read``.

        :raises Problem: 503 while it is not known yet which keys there are.
        """
        claims = super().read(token)
        if claims.issuer is not None and self._keys.by_id(claims.issuer) is None:
            if not self._keys.known:
                raise Problem(503, "keys-unreadable", "The database does not answer, so no token can be checked.")
            raise InvalidToken("The key that this token was made with has ended; ask for a new one.")
        g.token = claims  # for the log
        return claims
