"""Many jobs while everything is killed, cut off and stalled, by a schedule that a seed makes.

    pytest tests/faults/test_chaos.py                                            # the seeds of CI
    pytest tests/faults/test_chaos.py --chaos-seed 42 --chaos-seconds 600        # one seed, long, in every setting
    pytest tests/faults/test_chaos.py --chaos-seed 42 -k sqlite                  # or postgres, or rabbitmq

A failure names its seed. The schedule replays; what the machine makes of it does not, to the millisecond.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import redis

from celery_progress_ext import JobStatus
from celery_progress_ext.jobs import TERMINAL
from tests.support import chaos
from tests.support.chaos_audience import MatterReader, Run, Seen
from tests.support.chaos_stage import Stage
from tests.support.chords import Bench
from tests.support.waiting import wait_for

#: What CI runs: setting, seed, seconds.
CI_RUNS = (("sqlite", 1, 18.0), ("postgres", 2, 18.0), ("rabbitmq", 19, 24.0))
#: The faults are over and everything is back: how many ticks the last job may still take, and how long is waited for
#: so many on a machine that is busy. Seconds for the second.
HEAL_TICKS, MOST_SECONDS = 180, 540.0

#: A group's AsyncResults ask Redis to forget them when they are collected, and that Redis is gone.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The runs of CI, or those that were asked for."""
    if "chaos_run" not in metafunc.fixturenames:
        return
    seeds, seconds = metafunc.config.getoption("chaos_seed"), metafunc.config.getoption("chaos_seconds")
    asked = [(setting, seed, seconds or 20.0) for seed in seeds or () for setting in chaos.SETTINGS]
    runs = asked or [(setting, seed, seconds or usual) for setting, seed, usual in CI_RUNS]
    metafunc.parametrize(
        "chaos_run",
        [
            pytest.param(run, id=f"{run[0]}-{run[1]}", marks=pytest.mark.timeout(120 + run[2] + MOST_SECONDS))
            for run in runs
        ],
    )


def test_the_same_seed_gives_the_same_schedule() -> None:
    """Faults and jobs, to the last figure; another seed, another run."""
    assert chaos.schedule(7, 300, "postgres") == chaos.schedule(7, 300, "postgres")
    assert chaos.jobs(7, 300) == chaos.jobs(7, 300)
    assert chaos.schedule(8, 300, "postgres") != chaos.schedule(7, 300, "postgres")
    assert chaos.jobs(8, 300) != chaos.jobs(7, 300)


@pytest.mark.parametrize("setting", chaos.SETTINGS)
def test_a_long_schedule_has_every_deed_and_undoes_it(setting: str) -> None:
    """In order, each over before the same actor's next one and before the end."""
    steps = chaos.schedule(7, 2000, setting)
    assert steps == sorted(steps)
    expected = {(deed.actor, deed.name) for deed in chaos.DEEDS if setting in deed.settings}
    assert {(step.actor.rstrip("12"), step.deed) for step in steps} == expected
    for actor in chaos.ACTORS:
        own = [step for step in steps if step.actor == actor]
        ends = [step.at + step.hold for step in own]
        assert all(end < step.at for end, step in zip(ends, own[1:], strict=False))
        assert max(ends, default=0) <= 2000


def test_every_run_has_each_kind_of_job() -> None:
    """However short it is; and only the jobs that are to fail have chunks that cannot succeed."""
    plans = chaos.jobs(7, 5)
    assert [plan.kind for plan in plans] == list(chaos.KINDS)
    assert {plan.kind for plan in plans if plan.doomed} == {"failing"}


@pytest.fixture
def stage(chaos_run: tuple[str, int, float], tmp_path: Path) -> Iterator[Stage]:
    setting, seed, _ = chaos_run
    with Stage(tmp_path, setting, visibility=Random(seed).choice((4.0, 3600.0))) as stage:
        yield stage


def test_chaos(chaos_run: tuple[str, int, float], stage: Stage, tmp_path: Path) -> None:
    """Whatever is killed, cut off or stalled on the way, every job ends as it should, and nobody is told otherwise."""
    setting, seed, seconds = chaos_run
    steps, plans = chaos.schedule(seed, seconds, setting), chaos.jobs(seed, seconds)
    head = (
        f"chaos: replay with --chaos-seed {seed} --chaos-seconds {seconds:g} -k {setting}\n"
        f"{len(plans)} jobs, {len(steps)} faults:\n{chaos.script(steps)}"
    )
    print(head)
    (tmp_path / "out").mkdir()
    bench = Bench(stage.environment("publisher"), tmp_path)
    stop = threading.Event()
    runs = [Run(plan, bench, stop) for plan in plans]
    stage.start()
    start = time.monotonic()
    audience = [
        threading.Thread(target=work, args=args, daemon=True)
        for run in runs
        for work, args in ((run.publish, (start,)), (run.watch, ()), (run.stream, (stage.web_port,)))
    ]
    matter = MatterReader(stage.web_port, stop)
    onlooker = threading.Thread(target=matter.read, daemon=True)
    for thread in (*audience, onlooker):
        thread.start()
    try:
        stage.play(steps, seconds)
        ended, ticked = time.monotonic(), stage.ticks

        def over() -> bool:
            return not any(thread.is_alive() for thread in audience)

        def over_or_too_late() -> bool:
            stage.supervise()
            return over() or stage.ticks - ticked > HEAL_TICKS

        with suppress(TimeoutError):
            wait_for(over_or_too_late, MOST_SECONDS, every=0.1)
        with_end, ticks = over(), stage.ticks - ticked
        print(f"healed within {ticks} ticks, {time.monotonic() - ended:.1f} s; {'; '.join(stage.notes)}")
    finally:
        stop.set()
        for thread in audience:
            thread.join(15)
    problems = [] if with_end else [f"not over {ticks} ticks after the last fault"]
    problems += [f"{run.plan.name}: {problem}" for run in runs for problem in _problems(run)]
    problems += [f"the matter's stream: {problem}" for problem in matter.problems]
    if not matter.newest:
        problems.append("the matter's stream told nothing")
    problems += [f"drift: {drift}" for drift in bench.progress.audit()]
    problems += [f"{key} has no TTL" for key in _without_ttl(stage.redis_url)]
    bench.close()
    if problems:
        pytest.fail("\n".join([*problems, head, *stage.notes, stage.logs()]), pytrace=False)


def _problems(run: Run) -> Iterator[str]:
    """What is wrong with one job after everything is over."""
    yield from run.problems
    if run.job is None:
        if run.refused is None:
            yield "was never published"
        return
    last = run.job.snapshot()
    failed = {failure.chunk_index for failure in last.failures}
    if last.status is not _right_status(run) and not (run.cancelled and last.status is JobStatus.COMPLETED):
        rows = [row for row in run.bench.progress.jobs.chunks(run.job.id) if row["status"] != "completed"]
        yield f"is {last.status}, not {_right_status(run)}: {last.error}; {last.stage}; failures {failed}; rows {rows}"
    elif failed != (run.plan.doomed if last.status is JobStatus.PARTIAL else frozenset()):
        yield f"failed in {sorted(failed)}, not {sorted(run.plan.doomed)}"
    yield from _history_problems(run)
    yield from _output_problems(run, last.status)
    for who, seen in (("watched", run.watched), ("streamed", run.streamed)):
        yield from _seen_problems(who, seen)
        if not seen or (seen[-1].version, seen[-1].status) != (last.version, last.status):
            yield f"{who} to {seen[-1:]}, not to version {last.version}, {last.status}"


def _right_status(run: Run) -> JobStatus:
    if run.cancelled:
        return JobStatus.CANCELLED
    return JobStatus.PARTIAL if run.plan.doomed else JobStatus.COMPLETED


def _history_problems(run: Run) -> Iterator[str]:
    assert run.job is not None
    events = run.bench.progress.jobs.history(run.job.id, limit=100_000)
    versions = [event["version"] for event in events]
    if versions != sorted(set(versions)):
        doubled = {version: count for version, count in Counter(versions).items() if count > 1}
        yield f"versions of its history do not grow: {doubled or versions}"
    completed = Counter(event["chunk_index"] for event in events if event["type"] == "chunk_completed")
    rows = {row["chunk_index"] for row in run.bench.progress.jobs.chunks(run.job.id) if row["status"] == "completed"}
    if completed != Counter(rows):
        yield f"chunk_completed {completed}, but completed are {sorted(rows)}"
    ends = [event["type"] for event in events if event["type"] in _ENDS]
    runs = 1 + sum(event["type"] == "job_retried" for event in events)
    if len(ends) != runs:
        yield f"{runs} runs, but ended by {ends}"


_ENDS = frozenset(f"job_{status.lower()}" for status in TERMINAL)


def _output_problems(run: Run, status: JobStatus) -> Iterator[str]:
    """The merged output holds every completed chunk's number once, in order."""
    if status not in (JobStatus.COMPLETED, JobStatus.PARTIAL):
        return
    expected = [index for index in range(len(run.plan.chunks)) if index not in run.plan.doomed]
    merged = json.loads(run.out.read_text()) if run.out.exists() else None
    if merged != expected:
        yield f"merged {merged}, not {expected}"


def _seen_problems(who: str, seen: list[Seen]) -> Iterator[str]:
    for before, after in pairwise(seen):
        # The stream sends what is newer; who looks at the rows again may find them unchanged.
        if after.version < before.version or (who == "streamed" and after.version == before.version):
            yield f"{who} version {before.version}, then {after.version}"
        if after.percent < before.percent:
            yield f"{who} {before.percent} % (version {before.version}), then {after.percent} % ({after.version})"
        if before.status is JobStatus.COMPLETED and after.status is not JobStatus.COMPLETED:
            yield f"{who} COMPLETED (version {before.version}), then {after.status} ({after.version})"


def _without_ttl(url: str) -> list[str]:
    with redis.Redis.from_url(url, socket_timeout=5, decode_responses=True) as client:
        return [key for key in client.scan_iter("progress:*") if client.ttl(key) == -1]
