"""Connections: which database a URL names, how many a process keeps, and that none comes back in a transaction."""

from __future__ import annotations

import gc
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import parse_dsn
from sqlalchemy.engine import make_url

from celery_progress_ext.exceptions import DatabaseAway, DatabaseError, DatabaseNotMigrated, InvalidSetting
from celery_progress_ext.storage import Database, address, connection
from celery_progress_ext.storage.address import Address
from celery_progress_ext.storage.connection import KEPT, MOST, Connection
from celery_progress_ext.storage.database import Stale, execute, execute_one
from celery_progress_ext.storage.migrate import migrate
from celery_progress_ext.storage.revisions import current, head
from tests.support.processes import ROOT


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """With a table of numbers that is empty."""
    made = Database(database_url)
    made.write(lambda conn: execute(conn, "CREATE TABLE numbers (number INTEGER)"))
    yield made
    made.dispose()


def _add(conn: Connection, number: int) -> None:
    execute(conn, "INSERT INTO numbers VALUES (:number)", number=number)


def _numbers(database: Database) -> list[int]:
    return [row["number"] for row in database.rows("SELECT number FROM numbers ORDER BY number")]


def _idle(database: Database) -> list[Connection]:
    return database._pool._idle


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///progress.db",
        "sqlite:////var/lib/progress.db",
        "sqlite+pysqlite:///a b%20c.db",
        "sqlite:///progress.db?check_same_thread=false&timeout=5",
        "sqlite:///file:progress.db?mode=rwc&uri=true",
    ],
)
def test_a_url_names_the_file_that_sqlalchemy_would_take(url: str) -> None:
    """The same spellings. The path is absolute from the beginning: a task may change the working directory."""
    theirs = make_url(url)
    (path,), _ = theirs.get_dialect()().create_connect_args(theirs)
    assert (Address.of(url).dialect, Address.of(url).target) == ("sqlite", path)


@pytest.mark.parametrize(
    "rest",
    [
        "u:p%40ss@host:5433/db?sslmode=require",
        "host",
        "u@[::1]:5432/my%20db",
        # What a generator of passwords makes of it, though libpq would want it quoted.
        "u:ab/c+d=@host/db",
        "u:50%off?#@host/db",
        "u%3Ax:p@host/db?application_name=a%26b&connect_timeout=3",
        "/db?host=/var/run/postgresql",
        "u:p@:5433/db?host=/var/run/postgresql",
        "u:p@/db?host=a:5433&host=b:5434",
        "/db?host=a&port=5433",
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_a_url_names_the_server_that_sqlalchemy_would_take(scheme: str, rest: str) -> None:
    """The same spellings, and `postgres:`, which hosters use. What it says of timeouts counts."""
    theirs = make_url(f"postgresql+psycopg2://{rest}")
    _, expected = theirs.get_dialect()().create_connect_args(theirs)
    found = parse_dsn(Address.of(f"{scheme}://{rest}").target)
    assert found == {**address._POSTGRES_CONNECT, **{name: str(value) for name, value in expected.items()}} | {
        "options": "-c synchronous_commit=on"
    }


def test_hosts_may_stand_as_libpq_has_them() -> None:
    """SQLAlchemy takes several only as options."""
    found = parse_dsn(Address.of("postgresql://u@a:5433,b:5434/db").target)
    assert (found["host"], found["port"]) == ("a,b", "5433,5434")


def test_no_password_is_shown() -> None:
    """What is logged is a `repr`, or an error."""
    database = Database("postgresql://u:p%40ss@host/db")
    assert "ss@host" not in repr(database) + repr(database._address)
    assert "%40" not in repr(database) + repr(database._address)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("progress.db", "no URL"),
        ("mysql://host/db", "'mysql' is not supported"),
        ("postgresql+asyncpg://host/db", r"'postgresql\+asyncpg' is not supported"),
        ("sqlite://progress.db", "three slashes"),
        ("sqlite:///progress.db?mode=ro", "sqlite:///file:PATH"),
        ("postgresql://user:se@cret@host/db", "%XX"),
        ("postgresql://user:secret@host:port/db", "a number"),
    ],
)
def test_a_url_that_can_not_be_used_says_what_to_write(url: str, hint: str) -> None:
    """When the database is made, not at the first query."""
    with pytest.raises(InvalidSetting, match=hint) as raised:
        Database(url)
    assert "cret" not in str(raised.value)


def test_an_sqlite_that_is_too_old_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a syntax error at the first completion."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    with pytest.raises(InvalidSetting, match=r"3\.35 or newer is needed, and this Python has 3\.34\.1"):
        Database("sqlite://").rows("SELECT 1")


def test_an_option_that_libpq_does_not_know_is_named() -> None:
    """Not an error of the database, which will not get better."""
    with pytest.raises(InvalidSetting, match="sslmod") as raised:
        Database("postgresql://user:secret@127.0.0.1/db?sslmod=require").rows("SELECT 1")
    assert "secret" not in str(raised.value)


def test_options_of_the_url_are_kept(postgres_url: str) -> None:
    """Beside the library's own."""
    separator = "&" if "?" in postgres_url else "?"
    database = Database(f"{postgres_url}{separator}options=-c%20statement_timeout%3D4321")
    assert database.row("SHOW statement_timeout") == {"statement_timeout": "4321ms"}
    assert database.row("SHOW synchronous_commit") == {"synchronous_commit": "on"}
    database.dispose()


def test_a_database_in_memory_is_one(tmp_path: Path) -> None:
    """It lives as long as its one connection does."""
    database = Database("sqlite://")
    database.write(lambda conn: execute(conn, "CREATE TABLE numbers (number INTEGER)"))
    database.write(lambda conn: _add(conn, 1))
    assert _numbers(database) == [1]
    database.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_database_in_memory_can_be_migrated(url: str) -> None:
    """SQLAlchemy's engine is on the one connection, also after that was closed and there is another."""
    database = Database(url)
    for _ in range(2):
        assert current(database) is None
        assert migrate(database) == current(database) == head()
        database.dispose()


def test_the_file_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that changes the working directory is not given another database from then on."""
    monkeypatch.chdir(tmp_path)
    database = Database("sqlite:///progress.db")
    migrate(database)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert current(database) == head()
    database.dispose()
    assert not any(Path.cwd().iterdir())


def test_what_the_database_says_is_of_the_librarys_kind(database: Database) -> None:
    """Callers know those, and not each driver's; the driver's is the cause."""
    works: tuple[Callable[[], Any], ...] = (
        lambda: database.row("SELECT nonsense("),
        lambda: database.read(lambda conn: execute(conn, "SELECT nonsense(")),
        lambda: database.write(lambda conn: execute(conn, "SELECT nonsense(")),
        lambda: database.write(lambda conn: execute(conn, "SELECT nonsense("), single=True),
    )
    for work in works:
        with pytest.raises(DatabaseError) as raised:
            work()
        assert not isinstance(raised.value, DatabaseAway)
        assert raised.value.orig is raised.value.__cause__ is not None
    with pytest.raises(DatabaseNotMigrated):
        database.rows("SELECT * FROM processing_jobs")
    with pytest.raises(DatabaseNotMigrated):
        database.write(lambda conn: execute(conn, "INSERT INTO numbers (a_newer_column) VALUES (1)"))


def test_a_database_that_is_away_is_told_as_such(tmp_path: Path) -> None:
    """The web application answers 503 then, and not 500."""
    for url in ("postgresql://u:secret@127.0.0.1:1/db", f"sqlite:///{tmp_path}/nowhere/progress.db"):
        with pytest.raises(DatabaseAway) as raised:
            Database(url).rows("SELECT 1")
        assert "secret" not in str(raised.value)


def test_a_locked_file_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes for longer than anybody waits."""
    monkeypatch.setattr(address, "_BUSY_SECONDS", 0.05)
    first, second = (Database(f"sqlite:///{tmp_path}/progress.db") for _ in range(2))
    first.write(lambda conn: execute(conn, "CREATE TABLE numbers (number INTEGER)"))

    def meanwhile(conn: Connection) -> None:
        with pytest.raises(DatabaseAway, match="locked"):
            second.write(lambda other: _add(other, 1))

    first.write(meanwhile)
    second.write(lambda conn: _add(conn, 2))
    assert _numbers(first) == [2]
    first.dispose()
    second.dispose()


def test_what_raises_changes_nothing_and_its_connection_is_used_again(database: Database) -> None:
    """An error of the caller's, of the database's, and a change that no longer applies."""

    def fail(conn: Connection, error: BaseException | None) -> None:
        _add(conn, 1)
        if error is None:
            execute(conn, "SELECT nonsense(")
        else:
            raise error

    [kept] = _idle(database)
    for error, raised in ((ZeroDivisionError(), ZeroDivisionError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with pytest.raises(raised):
            database.write(lambda conn, error=error: fail(conn, error))
    with pytest.raises(DatabaseError):
        database.write(lambda conn: fail(conn, None))
    assert database.write(lambda conn: fail(conn, Stale())) is None
    assert _numbers(database) == []
    assert _idle(database) == [kept]


def test_an_interrupted_rollback_does_not_leave_a_transaction_open(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A soft time limit strikes between any two lines: a connection that is in a transaction still is closed."""
    run = Connection.run

    def interrupted(conn: Connection, statement: str) -> None:
        if statement == "ROLLBACK":
            raise KeyboardInterrupt
        run(conn, statement)

    def add_and_fail(conn: Connection) -> None:
        _add(conn, 1)
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            database.write(add_and_fail)
    assert _idle(database) == []
    database.write(lambda conn: _add(conn, 2))
    assert _numbers(database) == [2]


_STORM = """
import random, signal, sys, threading, time
from celery_progress_ext.storage import Database
from celery_progress_ext.storage.database import execute

class SoftTimeLimit(Exception): ...

def strike(*_): raise SoftTimeLimit

def open_transaction(conn):
    if database.dialect == "sqlite":
        return conn.dbapi.in_transaction
    return conn.dbapi.get_transaction_status() != 0

def beat():
    while not over:
        database.rows("SELECT 1 AS one")
        beats.append(time.monotonic())
        time.sleep(0.001)

database, over, beats, strikes = Database(sys.argv[1]), [], [], 0
database.write(lambda conn: execute(conn, "CREATE TABLE numbers (number INTEGER)"))
signal.signal(signal.SIGALRM, strike)
threading.Thread(target=beat, daemon=True).start()
chance, end = random.Random(5), time.monotonic() + 3
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, float(sys.argv[2])))
        for _ in range(3):
            database.write(lambda conn: execute(conn, "INSERT INTO numbers VALUES (1)"))
        signal.setitimer(signal.ITIMER_REAL, 0)
    except SoftTimeLimit:
        strikes += 1
    assert not any(open_transaction(conn) for conn in list(database._pool._idle))
signal.signal(signal.SIGALRM, signal.SIG_IGN)
quiet = time.monotonic()
time.sleep(1)
over.append(True)
assert strikes > 50, strikes
assert beats[-1] > quiet, "the other thread waits for ever"
database.write(lambda conn: execute(conn, "INSERT INTO numbers VALUES (2)"))
"""


def test_a_soft_time_limit_may_strike_anywhere(database_url: str) -> None:
    """Celery raises it from a signal's handler, between any two lines. The thread of the heartbeats, which shares the
    pool, goes on, and no connection comes back in a transaction.
    """
    window = "3e-4" if database_url.startswith("sqlite") else "3e-3"
    # In a process of its own: an exception in a finaliser is printed there, and none of pytest's is struck.
    argv = [sys.executable, "-c", _STORM, database_url, window]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


_GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from celery_progress_ext.storage import Database, connection
from celery_progress_ext.storage.database import execute
from celery_progress_ext.sse import gevent_support

gevent_support.install()
database = Database(sys.argv[1])
database.write(lambda conn: execute(conn, "CREATE TABLE numbers (number INTEGER)"))

def ask(number):
    database.rows("SELECT pg_sleep(0.1)")
    return len(database._pool._busy) + len(database._pool._idle)

begun = time.monotonic()
counts = [job.get() for job in [gevent.spawn(ask, number) for number in range(45)]]
assert time.monotonic() - begun < 3, "one after the other"
assert max(counts) <= connection.MOST, counts
assert len(database._pool._idle) <= connection.KEPT

def slow(conn):
    execute(conn, "INSERT INTO numbers VALUES (1)")
    execute(conn, "SELECT pg_sleep(60)")

for _ in range(connection.MOST + 1):
    try:
        with gevent.Timeout(0.05):
            database.write(slow)
    except gevent.Timeout:
        pass
    else:
        raise AssertionError
assert database.rows("SELECT number FROM numbers") == []
"""


def test_greenlets_share_the_pool(postgres_url: str) -> None:
    """Those of a web process: they wait for a connection, and one that is given up in its query leaves none behind."""
    argv = [sys.executable, "-c", _GREENLETS, postgres_url]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_reader_sees_one_moment(database: Database) -> None:
    """Whatever others commit between its queries."""
    database.write(lambda conn: _add(conn, 1))

    def read(conn: Connection) -> tuple[Any, Any]:
        count = "SELECT COUNT(*) AS found FROM numbers"
        before = execute_one(conn, count)
        database.write(lambda other: _add(other, 2))
        return before, execute_one(conn, count)

    assert database.read(read) == ({"found": 1}, {"found": 1})
    assert _numbers(database) == [1, 2]


def test_the_last_connection_is_used_first_and_few_are_kept(database: Database) -> None:
    """So that a burst's connections are not held for ever."""
    with_all: list[Any] = [database.connection() for _ in range(MOST)]
    conns = [context.__enter__() for context in with_all]
    assert len(set(conns)) == MOST
    for context in with_all:
        context.__exit__(None, None, None)
    assert _idle(database) == conns[:KEPT]
    with database.connection() as conn:
        assert conn is conns[KEPT - 1]


def test_who_finds_all_in_use_waits_for_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is told after a while, rather than to open as many as there are threads."""
    monkeypatch.setattr(connection, "WAIT_SECONDS", 0.2)
    contexts: list[Any] = [database.connection() for _ in range(MOST)]
    for context in contexts:
        context.__enter__()
    with pytest.raises(DatabaseAway, match="got free"):
        database.rows("SELECT 1")
    monkeypatch.setattr(connection, "WAIT_SECONDS", 20.0)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.extend(database.rows("SELECT 1 AS one")))
    waiting.start()
    contexts.pop().__exit__(None, None, None)
    waiting.join(10)
    assert found == [{"one": 1}]
    for context in contexts:
        context.__exit__(None, None, None)


def test_a_connection_that_was_left_behind_gives_its_place_back(database: Database) -> None:
    """An exception from outside may come right after it was taken."""
    for _ in range(MOST + 1):
        database._pool._take()
        gc.collect()
    assert database.rows("SELECT 1 AS one") == [{"one": 1}]


def test_a_child_has_connections_of_its_own(database: Database) -> None:
    """It neither uses nor closes its parent's, idle or in use."""
    database.write(lambda conn: _add(conn, 1))
    [idle] = _idle(database)

    def fork(conn: Connection) -> int:
        _add(conn, 2)
        child = os.fork()
        if child == 0:  # pragma: no cover
            found = _numbers(database)
            own = _idle(database)
            database.dispose()
            gc.collect()
            os._exit(0 if found == [1] and idle not in own else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert database.write(fork) == 0
    assert _numbers(database) == [1, 2]
    assert _idle(database)[-1] is idle


def test_a_child_gives_no_connection_back_that_is_its_parents(database: Database) -> None:
    """Forked while one was in use, it goes on behind that."""
    with database.connection() as conn:
        child = os.fork()
    if child == 0:  # pragma: no cover
        os._exit(0 if _idle(database) == [] and _numbers(database) == [] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _idle(database) == [conn]
    database.write(lambda conn: _add(conn, 1))
    assert _numbers(database) == [1]


def test_a_broken_connection_is_replaced_with_those_that_broke_with_it(postgres_url: str) -> None:
    """The server was restarted: nobody sees it. Only what may be repeated is."""
    database = Database(postgres_url)
    database.write(lambda conn: execute(conn, "CREATE TABLE numbers (number INTEGER)"))
    with database.connection(), database.connection():
        pass
    broken = [*_idle(database)]
    assert len(broken) == 2
    other = Database(postgres_url)
    other.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    database.write(lambda conn: _add(conn, 1))
    assert _numbers(database) == [1]
    assert not set(broken) & set(_idle(database))
    assert all(conn.dbapi.closed for conn in broken)
    database.dispose()
    other.dispose()


def test_a_closed_connection_in_use_is_not_kept(database: Database) -> None:
    """`dispose` closes what is idle now, and what is in use when it comes back."""
    with database.connection() as conn:
        database.dispose()
        assert execute_one(conn, "SELECT 1 AS one") == {"one": 1}
    assert _idle(database) == []
    closed = (sqlite3.ProgrammingError, Exception)
    with pytest.raises(closed):
        conn.cursor().execute("SELECT 1")


def test_sqlalchemys_engine_is_the_same_database(database: Database) -> None:
    """For queries of one's own, in transactions."""
    with database.engine.begin() as conn:
        conn.exec_driver_sql("INSERT INTO numbers VALUES (1)")
    with database.engine.connect() as conn:
        conn.exec_driver_sql("INSERT INTO numbers VALUES (2)")
        conn.rollback()
    assert _numbers(database) == [1]


def test_a_silent_network_is_noticed(postgres_url: str) -> None:
    """TCP would wait for a quarter of an hour, and heartbeats and the tick with it."""
    database = Database(postgres_url)
    with database.connection() as conn, socket.socket(fileno=os.dup(conn.dbapi.fileno())) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_000
        idle, interval, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= 30
    database.dispose()
