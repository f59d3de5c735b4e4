"""The few connections that a process keeps, to sqlite3 or psycopg2.

Every statement of the library is text that goes through a driver's cursor. SQLAlchemy, which has the tables and the
migrations, would be here for its pool alone, at 11 MB in each worker, publisher and beat.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery_progress_ext.exceptions import DatabaseAway
from celery_progress_ext.storage.address import Address

#: Connections of a process at once, and those that it keeps open for later.
MOST, KEPT = 15, 5
#: How long to wait for one while all are in use. Seconds.
WAIT_SECONDS = 30.0


class Lost(Exception):
    """The connection broke under a statement; ``error`` is what the driver said."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Connection:
    """A driver's connection, in the hands of one thread."""

    def __init__(self, dialect: str, era: int) -> None:
        self.dialect = dialect
        #: Names of the statements that are prepared on it.
        self.prepared: set[str] = set()
        self.era = era
        self.dbapi: Any = None

    def cursor(self) -> Any:
        """A cursor of the driver."""
        return self.dbapi.cursor()

    def run(self, statement: str) -> None:
        """A statement that returns nothing, as it stands."""
        cursor = self.cursor()
        try:
            cursor.execute(statement)
        finally:
            cursor.close()

    def close(self) -> None:
        """Close it, whatever it says to that."""
        try:
            if self.dbapi is not None:
                self.dbapi.close()
        except Exception:  # it is broken, that is why
            return


class Pool:
    """The connections of this process to a database; shared by its threads, usable after a fork."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._begin_anew()
        _pools.add(self)

    def _begin_anew(self) -> None:
        # Entered itself, and never through the condition: that is Python code, in which a soft time limit can strike
        # between taking the lock and being responsible for it, and no other thread would get a connection again.
        # Reentrant: what was left behind may be collected, and so given back, while it is held.
        self._lock = threading.RLock()
        self._freed = threading.Condition(self._lock)
        self._idle: list[Connection] = []
        # Weak: one that an exception between two lines has left behind is closed, and its place is free.
        self._busy: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._era = 0
        self._most = 1 if self._address.in_memory else MOST

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for one thing to do, outside any transaction before and after it.

        :raises Lost: where it broke meanwhile; the idle ones, which broke with it, are closed.
        """
        conn = self._take()
        fit = False
        try:
            yield conn
            fit = True
        except self._address.driver.Error as error:
            if self._address.lost(error, conn.dbapi):
                self.close_idle()
                raise Lost(error) from error
            # One that is in a transaction still could not be rolled back.
            fit = not self._in_transaction(conn)
            raise
        except BaseException:
            # An exception from outside (a soft time limit) may have come between any two lines.
            fit = not self._in_transaction(conn)
            raise
        finally:
            self._give_back(conn, fit=fit)

    def close_idle(self) -> None:
        """Close what is not in use, and what is as soon as it is given back."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._era += 1
        for conn in idle:
            conn.close()

    def _take(self) -> Connection:
        deadline = time.monotonic() + WAIT_SECONDS
        with self._lock:
            while not self._idle and len(self._busy) >= self._most:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DatabaseAway(
                        f"None of {self._most} database connections of this process got free within {WAIT_SECONDS:g} s."
                    )
                # In slices: one that was left behind tells nobody.
                self._freed.wait(min(left, 1.0))
            # The one that was used last, so that others grow old and what they hold is not needed.
            conn = self._idle.pop() if self._idle else Connection(self._address.dialect, self._era)
            self._busy.add(conn)
        if conn.dbapi is None:
            try:
                conn.dbapi = self._address.connect()
            except BaseException:
                self._give_back(conn, fit=False)
                raise
        return conn

    def _give_back(self, conn: Connection, *, fit: bool) -> None:
        if conn not in self._busy:
            return  # the parent's, of a fork while it was in use
        if not fit:
            # First, and not when the place is given back: it may hold SQLite's write lock.
            conn.close()
        with self._lock:
            self._busy.discard(conn)
            keep = fit and conn.era == self._era and len(self._idle) < KEPT
            if keep:
                self._idle.append(conn)
            self._freed.notify()
        if fit and not keep:
            conn.close()

    def _in_transaction(self, conn: Connection) -> bool:
        if self._address.dialect == "sqlite":
            return bool(conn.dbapi.in_transaction)
        return bool(conn.dbapi.closed or conn.dbapi.get_transaction_status() != 0)  # PQTRANS_IDLE

    def _leave_to_the_parent(self) -> None:
        _inherited.extend((*self._idle, *self._busy))
        self._begin_anew()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
#: Connections of the process that this one was forked from. Closing one would end the parent's, and a driver closes
#: what is not referred to any more.
_inherited: list[Connection] = []


def _in_a_child() -> None:
    for pool in list(_pools):
        pool._leave_to_the_parent()


# Right after the fork, when there is one thread: two that found out later could not agree on who begins anew.
os.register_at_fork(after_in_child=_in_a_child)
