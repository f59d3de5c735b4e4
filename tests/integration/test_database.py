"""The database: which one a URL names, transactions that lose nothing, and what a process may do to others."""

from __future__ import annotations

import gc
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.exceptions import DatabaseAway, DatabaseError, DatabaseNotMigrated, InvalidSetting
from celery_progress_ext.storage import Database, database_url
from celery_progress_ext.storage.database import MAX_CONNECTIONS, Stale
from celery_progress_ext.storage.migrate import migrate
from celery_progress_ext.storage.revisions import current, head
from tests.support import sql
from tests.support.processes import ROOT
from tests.support.sql import execute
from tests.support.waiting import wait_for


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """With a table of numbers that is empty."""
    made = _with_numbers(database_url)
    yield made
    made.dispose()


def _with_numbers(url: str, **options: Any) -> Database:
    made = Database(url, **options)
    made.write(lambda conn: execute(conn, "CREATE TABLE numbers (number INTEGER)"))
    return made


def _add(conn: Connection, number: int) -> None:
    execute(conn, "INSERT INTO numbers VALUES (:number)", number=number)


def _numbers(database: Database) -> list[int]:
    return [row["number"] for row in sql.rows(database, "SELECT number FROM numbers ORDER BY number")]


@pytest.mark.parametrize(
    ("url", "dialect"),
    [
        ("sqlite://", "sqlite"),
        ("sqlite:///:memory:", "sqlite"),
        ("sqlite+pysqlite:///a b%20c.db", "sqlite"),
        ("sqlite:///file:progress.db?mode=rwc&uri=true", "sqlite"),
        ("postgres://u:p%40ss@host:5433/db?sslmod=require", "postgresql"),
        ("postgresql+psycopg2://u:ab/c+d=@host/db", "postgresql"),
        ("postgresql:///db?host=/var/run/postgresql", "postgresql"),
    ],
)
def test_urls_are_sqlalchemys(url: str, dialect: str) -> None:
    """And `postgres:`, which hosters use."""
    assert Database(url).dialect == dialect


def test_no_password_is_shown() -> None:
    """What is logged is a `repr`, or an error."""
    database = Database("postgresql://u:p%40ss@host/db")
    assert "ss@host" not in repr(database) + repr(database.engine)
    assert "%40" not in repr(database) + repr(database.engine)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("progress.db", "no URL"),
        ("mysql://host/db", "'mysql' is not supported"),
        ("postgresql+asyncpg://host/db", r"'postgresql\+asyncpg' is not supported"),
        ("sqlite://progress.db", "three slashes"),
        ("sqlite:///progress.db?mode=ro", "sqlite:///file:PATH"),
        ("postgresql://user:secret@host:port/db", "no URL"),
    ],
)
def test_a_url_that_cannot_be_used_says_what_to_write(url: str, hint: str) -> None:
    """When the database is made, not at the first query."""
    with pytest.raises(InvalidSetting, match=hint) as raised:
        Database(url)
    assert "cret" not in str(raised.value)


def test_an_sqlite_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a syntax error at the first completion."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    with pytest.raises(InvalidSetting, match=r"3\.35 or newer is needed, and this Python has 3\.34\.1"):
        Database("sqlite://")


def test_an_option_that_libpq_does_not_know_is_named() -> None:
    """Not an error of the database, which will not get better."""
    with pytest.raises(InvalidSetting, match="sslmod") as raised:
        Database("postgresql://user:secret@127.0.0.1/db?sslmod=require").rows(sa.text("SELECT 1"))
    assert "secret" not in str(raised.value)


def test_options_of_the_url_are_kept(postgres_url: str) -> None:
    """Beside the library's own, and before them."""
    separator = "&" if "?" in postgres_url else "?"
    database = Database(f"{postgres_url}{separator}options=-c%20statement_timeout%3D4321", hold_seconds=1)
    assert sql.row(database, "SHOW statement_timeout") == {"statement_timeout": "4321ms"}
    assert sql.row(database, "SHOW lock_timeout") == {"lock_timeout": "1s"}
    assert sql.row(database, "SHOW synchronous_commit") == {"synchronous_commit": "on"}
    database.dispose()


def test_psycopg_3_serves_too(postgres_url: str) -> None:
    """Django projects have it."""
    pytest.importorskip("psycopg", reason="psycopg 3 is not installed")
    database = _with_numbers(postgres_url.replace("+psycopg2", "").replace("postgresql:", "postgresql+psycopg:"))
    assert migrate(database) == current(database) == head()
    database.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_database_in_memory_is_one(url: str) -> None:
    """It lives as long as its one connection does."""
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


def test_errors_of_the_database_are_of_the_librarys_kind(database: Database) -> None:
    """Callers know those, and not each driver's; the driver's is the cause."""
    works: tuple[Callable[[], Any], ...] = (
        lambda: database.rows(sa.text("SELECT nonsense(")),
        lambda: database.read(lambda conn: execute(conn, "SELECT nonsense(")),
        lambda: database.write(lambda conn: execute(conn, "SELECT nonsense(")),
    )
    for work in works:
        with pytest.raises(DatabaseError) as raised:
            work()
        assert not isinstance(raised.value, DatabaseAway)
        assert raised.value.orig is raised.value.__cause__ is not None
    with pytest.raises(DatabaseNotMigrated):
        database.rows(sa.text("SELECT * FROM processing_jobs"))
    with pytest.raises(DatabaseNotMigrated):
        database.write(lambda conn: execute(conn, "INSERT INTO numbers (a_newer_column) VALUES (1)"))


def test_a_database_that_is_away_is_reported_as_such(tmp_path: Path) -> None:
    """The web application answers 503 then, and not 500."""
    for url in ("postgresql://u:secret@127.0.0.1:1/db", f"sqlite:///{tmp_path}/nowhere/progress.db"):
        with pytest.raises(DatabaseAway) as raised:
            Database(url).rows(sa.text("SELECT 1"))
        assert "secret" not in str(raised.value)


def test_a_locked_file_is_away_and_the_error_names_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes for longer than anybody waits; it may have been stopped."""
    monkeypatch.setattr(database_url, "BUSY_SECONDS", 0.05)
    first, second = (Database(f"sqlite:///{tmp_path}/progress.db") for _ in range(2))
    first.write(lambda conn: execute(conn, "CREATE TABLE numbers (number INTEGER)"))

    def meanwhile(conn: Connection) -> None:
        with pytest.raises(DatabaseAway, match=r"locked.*may be frozen"):
            second.write(lambda other: _add(other, 1))

    first.write(meanwhile)
    second.write(lambda conn: _add(conn, 2))
    assert _numbers(first) == [2]
    first.dispose()
    second.dispose()


def test_what_raises_changes_nothing(database: Database) -> None:
    """An error of the caller's, of the database's, and a change that no longer applies."""

    def fail(conn: Connection, error: BaseException | None) -> None:
        _add(conn, 1)
        if error is None:
            execute(conn, "SELECT nonsense(")
        else:
            raise error

    for error, raised in ((ZeroDivisionError(), ZeroDivisionError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with pytest.raises(raised):
            database.write(lambda conn, error=error: fail(conn, error))
    with pytest.raises(DatabaseError):
        database.write(lambda conn: fail(conn, None))
    assert database.write(lambda conn: fail(conn, Stale())) is None
    assert _numbers(database) == []


_STORM = """
import random, signal, sys, threading, time
from celery_progress_ext.storage import Database
from tests.support.sql import execute

class SoftTimeLimit(Exception): ...

def strike(*_): raise SoftTimeLimit

def beat():
    while not over:
        database.read(lambda conn: execute(conn, "SELECT 1 AS one"))
        beats.append(time.monotonic())
        time.sleep(0.001)

def shoot():
    while not over:
        time.sleep(chance.uniform(1e-6, float(sys.argv[2])))
        signal.pthread_kill(main.ident, signal.SIGUSR1)

database, over, beats, strikes, committed = Database(sys.argv[1]), [], [], 0, 0
main = threading.main_thread()
database.write(lambda conn: execute(conn, "CREATE TABLE numbers (number INTEGER)"))
signal.signal(signal.SIGUSR1, strike)
chance, end = random.Random(5), time.monotonic() + 3
def write(conn):
    execute(conn, "INSERT INTO numbers VALUES (1)")
    return True
threads = [threading.Thread(target=each, daemon=True) for each in (beat, shoot)]
for thread in threads:
    thread.start()
while time.monotonic() < end:
    try:
        try:
            done = False
            done = database.write(write)
        finally:
            pass
    except SoftTimeLimit:
        strikes += 1
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
quiet = time.monotonic()
time.sleep(0.5)
over.append(True)
for thread in threads:
    thread.join()
assert strikes > 50, strikes
assert beats[-1] > quiet, "the other thread waits for ever"
assert database.engine.pool.checkedout() == 0, database.engine.pool.status()
database.write(lambda conn: execute(conn, "INSERT INTO numbers VALUES (2)"))
"""


def test_a_soft_time_limit_leaks_no_connection(database_url: str) -> None:
    """Celery raises it from a signal's handler, between any two lines. Inside SQLAlchemy's pool it would leak a
    connection each time; it waits for the end of the transaction.
    """
    # In a process of its own: an exception in a finaliser is printed there, and none of pytest's is struck.
    argv = [sys.executable, "-c", _STORM, database_url, "3e-3"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


_GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
import sqlalchemy as sa
from celery_progress_ext.sse import gevent_support
from celery_progress_ext.storage import Database
from celery_progress_ext.storage.database import MAX_CONNECTIONS
from tests.support.sql import execute

gevent_support.install()
database = Database(sys.argv[1])
database.write(lambda conn: execute(conn, "CREATE TABLE numbers (number INTEGER)"))
turns = []

def others():
    while True:
        turns.append(time.monotonic())
        gevent.sleep(0.01)

gevent.spawn(others)
begun = time.monotonic()
asked = [gevent.spawn(database.rows, sa.text("SELECT pg_sleep(0.1)")) for _ in range(45)]
gevent.joinall(asked, raise_error=True)
assert time.monotonic() - begun < 5, "one after the other"
assert len(turns) > 10, "the other greenlets stood still"

def slow(conn):
    execute(conn, "INSERT INTO numbers VALUES (1)")
    execute(conn, "SELECT pg_sleep(60)")

for _ in range(MAX_CONNECTIONS + 1):
    try:
        with gevent.Timeout(0.05):
            database.write(slow)
    except gevent.Timeout:
        pass
    else:
        raise AssertionError
assert database.read(lambda conn: execute(conn, "SELECT number FROM numbers")) == []
"""


def test_greenlets_share_the_pool_and_none_stands_still(postgres_url: str) -> None:
    """G18: those of a web process. One that is given up in its query leaves no connection behind."""
    argv = [sys.executable, "-c", _GREENLETS, postgres_url]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_reader_sees_one_moment(database: Database) -> None:
    """Whatever others commit between its queries."""
    database.write(lambda conn: _add(conn, 1))

    def read(conn: Connection) -> tuple[Any, Any]:
        count = "SELECT COUNT(*) AS found FROM numbers"
        [before] = execute(conn, count)
        database.write(lambda other: _add(other, 2))
        [after] = execute(conn, count)
        return before, after

    assert database.read(read) == ({"found": 1}, {"found": 1})
    assert _numbers(database) == [1, 2]


def test_a_caller_that_finds_all_connections_in_use_gets_a_sentence(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than a connection for every thread."""
    monkeypatch.setattr("celery_progress_ext.storage.database.WAIT_SECONDS", 0.2)
    database = Database(database_url)
    held = [database.engine.connect() for _ in range(MAX_CONNECTIONS)]
    with pytest.raises(DatabaseAway, match="got free"):
        database.rows(sa.text("SELECT 1"))
    for conn in held:
        conn.close()
    assert [tuple(row) for row in database.rows(sa.text("SELECT 1"))] == [(1,)]
    database.dispose()


def test_a_child_has_connections_of_its_own(database: Database) -> None:
    """It neither uses nor closes its parent's, idle or in use."""
    database.write(lambda conn: _add(conn, 1))

    def fork(conn: Connection) -> int:
        _add(conn, 2)
        child = os.fork()
        if child == 0:  # pragma: no cover
            found = _numbers(database)
            database.dispose()
            gc.collect()
            os._exit(0 if found == [1] else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert database.write(fork) == 0
    assert _numbers(database) == [1, 2]


def test_a_server_that_was_restarted_is_not_noticed(postgres_url: str) -> None:
    """Every connection broke; what may be repeated is."""
    database = _with_numbers(postgres_url)
    other = Database(postgres_url)
    sql.rows(
        other,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()",
    )
    database.write(lambda conn: _add(conn, 1))
    assert _numbers(database) == [1]
    database.dispose()
    other.dispose()


def test_a_commit_whose_answer_is_lost_took_effect_once(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """G9: the connection breaks behind the COMMIT. The server knows the transaction's fate."""
    database = _with_numbers(postgres_url)
    lost: list[int] = []

    def commit_and_lose(dbapi: Any) -> None:
        dbapi.commit()
        if not lost:
            lost.append(1)
            raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(database.engine.dialect, "do_commit", commit_and_lose)

    def work(conn: Connection) -> int:
        _add(conn, 1)
        return 42

    assert database.write(work) == 42
    assert lost == [1]
    assert _numbers(database) == [1]
    database.dispose()


def test_a_commit_that_is_lost_on_its_way_is_repeated(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other half of it: nothing took effect, so the work runs again."""
    database = _with_numbers(postgres_url)
    lost: list[int] = []

    def lose(dbapi: Any) -> None:
        if not lost:
            lost.append(1)
            dbapi.close()
            raise psycopg2.OperationalError("server closed the connection unexpectedly")
        dbapi.commit()

    monkeypatch.setattr(database.engine.dialect, "do_commit", lose)
    database.write(lambda conn: _add(conn, 1))
    assert _numbers(database) == [1]
    database.dispose()


_FREEZE = """
import os, signal, sys
from celery_progress_ext.storage import Database
from tests.support.sql import execute

def freeze(conn):
    execute(conn, "UPDATE numbers SET number = number + 1")
    print("holds", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

Database(sys.argv[1], hold_seconds=0.5).write(freeze)
print("done", flush=True)
"""


def test_a_process_that_froze_in_a_transaction_does_not_hold_up_others(postgres_url: str) -> None:
    """G2: the server ends the transaction of a stopped process; when that goes on, it does its work again."""
    database = _with_numbers(postgres_url, hold_seconds=0.5)
    database.write(lambda conn: _add(conn, 0))
    frozen = subprocess.Popen(
        [sys.executable, "-c", _FREEZE, postgres_url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert frozen.stdout is not None and frozen.stdout.readline() == "holds\n"
        wait_for(lambda: (ROOT / f"/proc/{frozen.pid}/stat").read_text().split()[2] == "T", 5.0)
        database.write(lambda conn: execute(conn, "UPDATE numbers SET number = number + 10"))
        assert _numbers(database) == [10]
        frozen.send_signal(18)  # SIGCONT
        # It froze again in its second try; from there it goes on.
        assert frozen.stdout.readline() == "holds\n"
        frozen.send_signal(18)
    finally:
        frozen.kill()
        frozen.wait()
        if frozen.stdout is not None:
            frozen.stdout.close()
        database.dispose()


def test_a_silent_network_is_noticed(postgres_url: str) -> None:
    """TCP would wait for a quarter of an hour, and heartbeats and the tick with it."""
    database = Database(postgres_url, hold_seconds=15)
    with database.engine.connect() as conn:
        dbapi: Any = conn.connection.dbapi_connection
        with socket.socket(fileno=os.dup(dbapi.fileno())) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_000
            idle, interval, count = (
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert idle + interval * count <= 30
        assert execute(conn, "SHOW tcp_user_timeout") == [{"tcp_user_timeout": "15000"}]
    database.dispose()
