"""A process stops for good after each statement, COMMIT and send; then only ticks run, to the same end.

Other workers go on meanwhile. Time passes by moving the times in the rows; nobody sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

import pytest

from celery_progress_ext import JobStatus
from celery_progress_ext.publishing import SUCCESS
from celery_progress_ext.recording import batch_completer, snapshot_throttle
from celery_progress_ext.worker.heartbeat import Heartbeats
from tests.interleavings.explorer import broken_invariants, forget
from tests.interleavings.stops import LEASE, TICK, Process, Stopped, sending
from tests.support.rows import Rows

#: A lease and a tick, and then a tick: then the job has to be over (P11).
_PASSES = (LEASE + TICK, TICK)


@dataclass
class Stage:
    """A database, what tasks did, and the process that lives on."""

    url: str
    rows: Rows
    effects: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.heir = Process(self.url, self.effects)


@dataclass(frozen=True)
class Scenario:
    """What the process does that is stopped, and how its job may end."""

    act: Callable[[Process, bool], None]
    ends: frozenset[JobStatus]
    prepare: Callable[[Stage], None] = lambda stage: None
    #: Whether it has a merge.
    merges: bool = True


def _publish_and_work(doomed: Process, late_ack: bool) -> None:
    doomed.publish()
    doomed.work(late_ack=late_ack)


def _publish_a_group_and_work(doomed: Process, late_ack: bool) -> None:
    doomed.publish_group()
    doomed.work(late_ack=late_ack)


def _one_of_a_group_fails(doomed: Process, late_ack: bool) -> None:
    doomed.publish_group(failing=1)
    doomed.work(late_ack=late_ack)


def _one_fails(doomed: Process, late_ack: bool) -> None:
    doomed.publish(failing=1)
    doomed.work(late_ack=late_ack)


def _cancel(doomed: Process, late_ack: bool) -> None:
    doomed.progress.cancel(_the_job(doomed))


def _retry(doomed: Process, late_ack: bool) -> None:
    doomed.progress.retry_failed(_the_job(doomed))
    doomed.work(late_ack=late_ack)


def _tick(doomed: Process, late_ack: bool) -> None:
    doomed.progress.reconciler.tick()
    doomed.work(late_ack=late_ack)
    doomed.progress.reconciler.tick()


def _published(stage: Stage) -> None:
    stage.heir.publish()


def _partial(stage: Stage) -> None:
    stage.heir.publish(failing=1)
    stage.heir.work()


def _messages_lost(stage: Stage) -> None:
    stage.heir.publish()
    stage.heir.lose_messages()
    stage.rows.pass_time(LEASE + TICK)


def _the_job(process: Process) -> str:
    [job] = process.progress.jobs.list()
    return job.job_id


_C, _P, _X = (frozenset({status}) for status in (JobStatus.COMPLETED, JobStatus.PARTIAL, JobStatus.CANCELLED))
SCENARIOS: Mapping[str, Scenario] = {
    "publish_and_work": Scenario(_publish_and_work, _C),
    # Where its failure was not told, the chunk is tried once more, and that succeeds.
    "one_fails": Scenario(_one_fails, _P | _C),
    "cancel": Scenario(_cancel, _X | _C, _published),
    "retry": Scenario(_retry, _C | _P, _partial),
    "tick": Scenario(_tick, _C, _messages_lost),
    "group": Scenario(_publish_a_group_and_work, _C, merges=False),
    "one_of_a_group_fails": Scenario(_one_of_a_group_fails, _P | _C, merges=False),
}


@pytest.fixture
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """On SQLite or PostgreSQL. Nothing is left to threads: they would make steps of their own."""
    database_url = request.getfixturevalue(f"{request.param}_url")
    monkeypatch.setattr(Heartbeats, "_run", lambda heartbeats: None)
    monkeypatch.setattr(batch_completer, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(snapshot_throttle, "PER_SECOND", 1e9)
    rows = Rows(database_url)
    made = Stage(database_url, rows)
    yield made
    made.heir.lose_messages()
    made.heir.close()
    rows.database.dispose()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On SQLite, where they take seconds; ``--interleavings`` asks for PostgreSQL too, and for the rest."""
    if "late_ack" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--interleavings")
        cases = [
            (database, late_ack, name)
            for database, late_ack, name in product(("sqlite", "postgres"), (True, False), SCENARIOS)
            if everything or (database == "sqlite" and (late_ack, name) not in _LONG)
        ]
        names = [
            f"{database}-{'redelivered' if late_ack else 'message_lost'}-{name}" for database, late_ack, name in cases
        ]
        metafunc.parametrize(("stage", "late_ack", "name"), cases, ids=names, indirect=["stage"])


#: Half a minute, and hardly another path than where the message is lost.
_LONG = {(True, "tick")}


def test_a_process_stops_for_good(stage: Stage, name: str, late_ack: bool) -> None:
    """At each of its steps in turn, with a new job each time."""
    found: list[str] = []
    for step in range(1_000):
        wrong, over = _stopped_before(stage, SCENARIOS[name], step, late_ack=late_ack)
        found += wrong
        if over:
            break
    assert not found, "\n".join(found)


def _stopped_before(stage: Stage, scenario: Scenario, step: int, *, late_ack: bool) -> tuple[list[str], bool]:
    """What is wrong in the end, and whether the process was through before it came to this step."""
    stage.effects.clear()
    stage.heir.lose_messages()
    scenario.prepare(stage)
    stage.effects[:] = [each for each in stage.effects if each == "failure"]
    doomed, at = Process(stage.url, stage.effects), ""
    doomed.stop_before(step)
    with sending(doomed):
        try:
            scenario.act(doomed, late_ack)
        except Stopped as stopped:
            at = f"stopped before step {step}, {stopped}, after {doomed.steps[-3:]}: "
    doomed.close()
    jobs = stage.heir.progress.jobs.list()
    wrong = [problem for job in jobs for problem in _ended_well(stage, scenario, job.job_id)]
    for job in jobs:
        forget(stage.rows, job.job_id)
    return [f"{at}{problem}" for problem in wrong], not at


def _ended_well(stage: Stage, scenario: Scenario, job_id: str) -> list[str]:
    before = stage.rows.jobs.snapshot(job_id)
    results = {
        f"chunk {chunk['chunk_index']}": stage.heir.progress.publisher.outcome(chunk["task_id"])[0]
        for chunk in stage.rows.jobs.chunks(job_id)
    }
    ran = list(stage.effects)
    stage.heir.work()
    for seconds in _PASSES:
        stage.rows.pass_time(seconds)
        stage.heir.progress.reconciler.tick()
        stage.heir.work()
    job = stage.rows.jobs.snapshot(job_id)
    wrong = broken_invariants(stage.rows, job_id)
    if job.status not in scenario.ends:
        wrong.append(f"the job is {job.status} a lease and two ticks later, {job.stage!r}, {job.chunks}")
    for chunk, state in results.items():
        if state == SUCCESS and chunk in ran and stage.effects.count(chunk) > ran.count(chunk):
            wrong.append(f"{chunk} was done again although its result was stored: {stage.effects}")
    if not before.status.terminal and job.status in (JobStatus.COMPLETED, JobStatus.PARTIAL):
        wrong += _effects_once(stage.effects, ran, merges=scenario.merges)
    return wrong


def _effects_once(effects: list[str], ran: list[str], *, merges: bool) -> list[str]:
    merged, follows = ([each for each in effects if each.startswith(kind)] for kind in ("merge", "follow"))
    wrong = []
    # Its code may run twice where it was stopped between its effect and its COMMIT.
    if len(merged) != merges and not (len(merged) == 2 and any(each.startswith("merge") for each in ran)):
        wrong.append(f"the merge ran {len(merged)} times: {effects}")
    if len(follows) != 1:
        wrong.append(f"what follows ran {len(follows)} times: {effects}")
    return wrong
