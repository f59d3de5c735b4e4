"""The keys that open something now: those of the environment, and those of the database, read again every few seconds.

While the database does not answer, what was read last goes on to hold: keys that were good stay good, and a key that is
not known may be one that could not be read yet.
"""

from __future__ import annotations

import threading
import time

import structlog

from celery_progress_ext.exceptions import ProgressError
from tasks.key_table import Access, KeyTable
from web.bounded import Bounded, Late
from web.credentials import Credentials, Grant

log = structlog.get_logger(__name__)

#: How old what was read may be, how old where a key is not in it, and how long a request waits for it to be
#: read again. Seconds.
FRESH_SECONDS = 2.0
STRANGERS_SECONDS = 0.1
_WAIT_SECONDS = 0.5


class KeyRing:
    """Who may come in. ``environment`` are the keys and the start-up token that never change while we run."""

    def __init__(self, environment: Credentials, table: KeyTable) -> None:
        self.environment = environment
        self.table = table
        self._read = Bounded(table.access)
        self._lock = threading.Lock()
        self._read_at = self._tried_at = float("-inf")
        self._database = Credentials()
        self._ended: set[str] = set()
        #: Whether the keys of the database were ever read.
        self.known = False

    @property
    def configured(self) -> bool:
        """Whether anybody at all can get in."""
        self._refresh()
        return self.environment.configured or self._database.configured

    def by_key(self, key: str) -> Grant | None:
        """The grant of a key, or None."""
        found = self.environment.by_key(key)
        if found is None:
            self._refresh()
            found = self._database.by_key(key)
        if found is None:
            # It may have been made a moment ago. Who is not known waits a little: so are reads, and guesses, few.
            time.sleep(max(0.0, min(self._read_at + STRANGERS_SECONDS - time.monotonic(), STRANGERS_SECONDS)))
            self._refresh(STRANGERS_SECONDS)
            found = self._database.by_key(key)
        return found

    def by_id(self, grant_id: str) -> Grant | None:
        """The grant of an id; None once its key opens nothing any more."""
        self._refresh()
        return self.environment.by_id(grant_id) or self._database.by_id(grant_id)

    def by_session(self, grant_id: str, session_id: str) -> Grant | None:
        """The grant of a session; None once it was signed out, or its key opens nothing any more."""
        grant = self.by_id(grant_id)
        return None if session_id in self._ended else grant

    def end_session(self, session_id: str, *, seconds: float) -> None:
        """Sign a session out, everywhere: here at once, in other processes within seconds.

        :raises DatabaseError: when that cannot be noted.
        """
        self.table.end_session(session_id, seconds=seconds)
        self._ended.add(session_id)

    def forget(self) -> None:
        """Read again before the next answer."""
        self._read_at = self._tried_at = float("-inf")

    def _refresh(self, fresh_seconds: float = FRESH_SECONDS) -> None:
        now = time.monotonic()
        # Where it was tried in vain, those who come meanwhile do not wait.
        if now < self._read_at + fresh_seconds or now < self._tried_at + FRESH_SECONDS:
            return
        try:
            access: Access = self._read.within(_WAIT_SECONDS)
        except (Late, ProgressError) as error:
            log.warning("keys_not_read", error=type(error).__name__)
            self._tried_at = time.monotonic()
            return
        with self._lock:
            self._database = Credentials.from_records(access.keys)
            self._ended = set(access.ended_sessions)
            self.known = True
            self._read_at = now
