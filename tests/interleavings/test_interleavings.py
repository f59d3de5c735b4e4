"""Every write against every other, paused at each of its statements: no count bends, nobody deadlocks, nothing is left.

CI runs the pairs that change what is counted, from the states in which they meet. ``make interleavings`` runs every
pair from every state, and the threes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
import sqlalchemy as sa

from celery_progress_ext.storage import Database
from celery_progress_ext.storage.migrate import migrate
from tasks.embedded.servers import PostgresServer
from tests.interleavings.explorer import Actor, actors, broken_invariants, cases, forget, not_run_by_a_retry
from tests.interleavings.writes import STATES, WRITES, another_job

#: State → the writes that may take effect in it.
_COVERING = {
    "absent": ("create",),
    "pending": ("start", "complete_two", "cancel", "take_unsent", "mark_sent"),
    "running": ("complete", "complete_two", "fail", "resend", "cancel", "start_another"),
    "failing": ("fail_and_end", "fail_another", "complete_two", "cancel"),
    "merging": ("claim", "finish", "cancel"),
    "cancelled": ("complete_two", "reopen", "start", "expire"),
    "last_chunk": ("complete", "complete_two", "fail_and_end", "settle", "cancel"),
    "group_ended": ("complete", "reopen"),
}
_THREES = ("start", "complete", "cancel", "reopen")


@pytest.fixture(scope="module")
def three(postgres_server: PostgresServer) -> Iterator[list[Actor]]:
    """Three actors on one migrated database."""
    server, name = postgres_server, "interleavings"
    admin = sa.create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as conn:
        conn.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        conn.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE template0")
    database = Database(server.database_url(name))
    migrate(database)
    database.dispose()
    with actors(server.database_url(name), 3) as made:
        yield made
    with admin.connect() as conn:
        conn.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def _explore(three: list[Actor], state: str, *names: str) -> None:
    actors = three[: len(names)]
    rows = actors[0].rows
    other_job = rows.create(2)
    for case in cases(actors, [WRITES[name] for name in names], lambda: STATES[state](rows)):
        schedule = f"from {state}: {names[0]} stopped {case.place}; meanwhile {', '.join(names[1:])}; then all end"
        assert broken_invariants(rows, case.job_id) == [], schedule
        assert not_run_by_a_retry(rows, case.job_id) == [], f"{schedule}; then cancel and retry"
        forget(rows, case.job_id)
    assert broken_invariants(rows, other_job) == []
    forget(rows, other_job)


def _pairs(all_of_them: bool) -> list[tuple[str, str, str]]:
    if all_of_them:
        return list(product(STATES, WRITES, WRITES))
    return [(state, a, b) for state, names in _COVERING.items() for a, b in product(names, names)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All of them where ``--interleavings`` asks for it."""
    everything = metafunc.config.getoption("--interleavings")
    if "pair" in metafunc.fixturenames:
        pairs = _pairs(everything)
        metafunc.parametrize("pair", pairs, ids=["-".join(pair) for pair in pairs])
    if "triple" in metafunc.fixturenames:
        states = STATES if everything else ("running",)
        writes = product(_THREES, repeat=3) if everything else [("start_another", "complete", "cancel")]
        triples = [(state, *names) for state, names in product(states, list(writes))]
        metafunc.parametrize("triple", triples, ids=["-".join(triple) for triple in triples])

    if "stopped" in metafunc.fixturenames:
        alone = list(product(STATES, WRITES)) if everything else [(state, a) for state, a, b in _pairs(False) if a == b]
        metafunc.parametrize("stopped", alone, ids=["-".join(each) for each in alone])


def test_two_writes_at_once(three: list[Actor], pair: tuple[str, str, str]) -> None:
    """The second begins while the first is paused, and both end."""
    _explore(three, *pair)


def test_three_writes_at_once(three: list[Actor], triple: tuple[str, str, str, str]) -> None:
    """The second and the third begin while the first is paused."""
    _explore(three, *triple)


def test_another_job_does_not_wait(three: list[Actor], stopped: tuple[str, str]) -> None:
    """Wherever a write stands still, and whatever it holds, the rows of other jobs are free (P11)."""
    state, name = stopped
    rows = three[0].rows
    for case in cases(three[:2], [WRITES[name], another_job], lambda: STATES[state](rows)):
        assert case.waited == 0, f"from {state}: {name} stopped {case.place}; another job waits"
        forget(rows, case.job_id)
