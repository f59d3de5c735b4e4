"""Tokens that open the door once, for all processes of the web application together."""

from __future__ import annotations

import redis

_KEEP_SECONDS = 90 * 24 * 3600


class OneTime:
    """Remembers which tokens were used: in Redis, or in this process where there is none.

    Redis: ``progress:used-token:<digest>``, a string, kept for 90 days.
    """

    def __init__(self, redis_url: str | None) -> None:
        self._redis_url = redis_url
        self._used: set[str] = set()

    def take(self, token_digest: str) -> bool:
        """True the first time, False ever after.

        :raises redis.exceptions.RedisError: when Redis does not answer; then the token is not let in.
        """
        if self._redis_url is not None:
            # Once or twice in the life of a service: no connection is kept for it.
            with redis.Redis.from_url(self._redis_url, socket_timeout=5, socket_connect_timeout=5) as client:
                return bool(client.set(f"progress:used-token:{token_digest}", 1, nx=True, ex=_KEEP_SECONDS))
        first = token_digest not in self._used
        self._used.add(token_digest)
        return first
