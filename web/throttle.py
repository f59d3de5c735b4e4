"""Failed sign-ins, counted by address: in Redis for all web processes, in this process while Redis is away."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

import structlog
from limits import parse
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import FixedWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from web.credentials import digest

log = structlog.get_logger(__name__)

#: So many failures of one address; then nobody who has not been let in from there before can try.
FAILURES = parse("20/minute")
RETRY_SECONDS = 60
_REMEMBERED = 4096
_REDIS_TIMEOUT_SECONDS = 0.3


class SignInThrottle:
    """Guessing costs a minute for twenty guesses. A key that was good from an address before is never held up there."""

    def __init__(self, redis_url: str | None) -> None:
        self._here = FixedWindowRateLimiter(MemoryStorage())
        self._together = None if redis_url is None else FixedWindowRateLimiter(_redis(redis_url))
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()

    def refuses(self, address: str, key: str) -> bool:
        """Whether ``key`` is not even looked at."""
        if (address, digest(key)) in self._good:
            return False
        return not self._ask("test", address)

    def failed(self, address: str) -> None:
        """Count a failure."""
        self._ask("hit", address)

    def succeeded(self, address: str, key: str) -> None:
        """Remember that this key is good from there."""
        self._good[address, digest(key)] = None
        self._good.move_to_end((address, digest(key)))
        if len(self._good) > _REMEMBERED:
            self._good.popitem(last=False)

    def _ask(self, question: str, address: str) -> bool:
        network = _network(address)
        if self._together is not None:
            try:
                return bool(getattr(self._together, question)(FAILURES, "progress-sign-in", network))
            except Exception as error:  # whatever its Redis client raises
                log.warning("throttle_not_shared", error=type(error).__name__)
        return bool(getattr(self._here, question)(FAILURES, "progress-sign-in", network))


def _redis(url: str) -> Storage:
    return RedisStorage(
        url,
        socket_timeout=_REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=_REDIS_TIMEOUT_SECONDS,
        # Its own retries wait for seconds.
        retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]  # its options are not only texts and numbers
    )


def _network(address: str) -> str:
    """The address; of IPv6 the 64 bits that one customer has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
