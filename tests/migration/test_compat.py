"""A deploy is no single moment: the tables are migrated first, and old code goes on working on them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import Script, ScriptDirectory
from structlog.testing import capture_logs

from celery_progress_ext import JobStatus
from celery_progress_ext.exceptions import DatabaseNotMigrated
from celery_progress_ext.storage import Database
from celery_progress_ext.storage.audit import audit
from celery_progress_ext.storage.migrate import SCRIPTS, config, migrate
from celery_progress_ext.storage.revisions import current, head, usable
from tests.support import life_cycle
from tests.support.processes import ROOT, WorkerProcess
from tests.support.rows import Rows
from tests.support.waiting import wait_for

#: What the life cycle needs beside the library, where the old version has none of its own.
_SUPPORT = ("tests/__init__.py", "tests/support/__init__.py", "tests/support/rows.py", "tests/support/life_cycle.py")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.dispose()


def _newest() -> Script:
    return ScriptDirectory(str(SCRIPTS)).get_revision(head())


def _git(*arguments: str) -> bytes:
    """What git says; skips the test where it cannot."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("git is not installed, so the library's earlier code is not here")
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        pytest.skip(f"the history is not here (a shallow clone, or no checkout): {reason}")
    return done.stdout


@pytest.fixture
def old_code(tmp_path: Path) -> Path:
    """A folder with the library as it was before the newest revision was added."""
    path = Path(_newest().path).relative_to(ROOT)
    if Path(_git("rev-parse", "--show-toplevel").decode().strip()) != ROOT:
        pytest.skip("this is no checkout of the project, so the library's earlier code is not here")
    added = _git("log", "--diff-filter=A", "--format=%H", "--", str(path)).decode().split()
    # A revision that is not committed yet: what is committed is the code before it.
    commit = _git("rev-parse", "--verify", f"{added[0]}^" if added else "HEAD").decode().strip()
    names = (
        _git("ls-tree", "-r", "--name-only", commit, "--", "celery_progress_ext", "tests/__init__.py", "tests/support")
        .decode()
        .split()
    )
    if not any(name.startswith("celery_progress_ext/") for name in names):
        pytest.skip("there was no library before the newest revision")
    folder = tmp_path / "old"
    with tarfile.open(fileobj=BytesIO(_git("archive", commit, *names))) as archive:
        archive.extractall(folder, filter="data")
    if not (folder / "tests/support/life_cycle.py").exists():
        for name in _SUPPORT:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    assert not (folder / path).exists()
    return folder


def _migrate_to_the_revision_before(database: Database) -> None:
    before = _newest().down_revision
    if before is None:
        pytest.skip("there is only one revision")
    assert isinstance(before, str)
    with database.engine.begin() as conn:
        command.upgrade(config(conn), before)


def test_new_code_asks_for_the_migration_first(database: Database, database_url: str) -> None:
    """Tables come first in a deploy: until then nothing is half done, and every error says what to run."""
    _migrate_to_the_revision_before(database)
    assert not usable(database)
    rows = Rows(database_url, migrated=False)
    with pytest.raises(DatabaseNotMigrated, match="progress migrate"):
        rows.create(2)
    rows.database.dispose()
    with capture_logs() as logs:
        life_cycle.tick(database_url, times=3)
    said = [(line["event"], line.get("step")) for line in logs if line["log_level"] != "info"]
    assert {event for event, _ in said} <= {"reconciler_step_waits"}
    assert len(said) == len(set(said))
    migrate(database)
    jobs = life_cycle.live(database_url)
    with capture_logs() as logs:
        assert life_cycle.tick(database_url)["check"] == len(jobs)
    assert [line for line in logs if line["log_level"] != "info"] == []
    assert audit(database) == []


def test_old_code_works_on_the_tables_of_the_newest_revision(
    database: Database, database_url: str, old_code: Path
) -> None:
    """Jobs run to their ends, and new code finds nothing wrong with what the old one wrote."""
    migrate(database)
    environ = {**os.environ, "PYTHONPATH": str(old_code), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.life_cycle", database_url],
        cwd=old_code,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "reconciler_step_failed" not in done.stdout, done.stdout
    answer = json.loads(done.stdout.splitlines()[-1])
    assert Path(answer["library"]).is_relative_to(old_code)
    statuses = Rows(database_url)
    assert {job_id: statuses.jobs.snapshot(job_id).status for job_id in answer["jobs"]} == answer["jobs"]
    assert Counter(answer["jobs"].values()) == Counter([JobStatus.COMPLETED, JobStatus.CANCELLED, JobStatus.PROCESSING])
    assert audit(database) == []
    statuses.database.dispose()


#: A project as a user has it, for either version of the library. Run as a program it publishes a job of three chunks,
#: and prints its id and where the library is.
_PROJECT = """
import os
from celery import Celery
from celery_progress_ext import CeleryProgress, tracked_chord
import celery_progress_ext

app = Celery("proj", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, broker_connection_retry_on_startup=True)
progress = CeleryProgress(app)

@app.task(bind=True)
def work(self, number):
    progress.report(self, done=1, total=1)
    if number == 1:
        raise ValueError(f"boom in {celery_progress_ext.__file__}")
    return number

@app.task
def merge(results, path):
    with open(path, "a") as file:
        print(sorted(results), celery_progress_ext.__file__, file=file)

if __name__ == "__main__":
    header = [work.s(number) for number in range(3)]
    body = merge.s(os.environ["OUT"])
    job = tracked_chord(header, body, matter_id="m", document_id="d").apply_async()
    print(job.id, celery_progress_ext.__file__)
"""


@pytest.mark.parametrize("old", ["publisher", "worker"])
def test_old_and_new_processes_work_on_one_job(
    database: Database,
    redis_url: str,
    old_code: Path,
    old: str,
    tmp_path: Path,
    worker: Callable[..., WorkerProcess],
) -> None:
    """A deploy rolls one process after the other: what one version publishes, the other runs, counts and merges."""
    migrate(database)
    folder, out = tmp_path / "project", tmp_path / "merged"
    folder.mkdir()
    (folder / "proj.py").write_text(_PROJECT)
    new = {"cwd": folder, "python_path": [ROOT, folder]}
    before = {"cwd": folder, "python_path": [old_code, folder]}
    env = {
        "CELERY_BROKER_URL": redis_url,
        "CELERY_RESULT_BACKEND": redis_url,
        "PROGRESS_DATABASE_URL": database.url,
        "PROGRESS_TICK_SECONDS": "0.5",
        "OUT": str(out),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    publisher, runner = (before, new) if old == "publisher" else (new, before)
    path = os.pathsep.join(map(str, publisher["python_path"]))
    published = subprocess.run(
        [sys.executable, "proj.py"],
        cwd=folder,
        env={**os.environ, **env, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    job_id, library = published.stdout.splitlines()[-1].split()
    assert Path(library).is_relative_to(old_code) == (old == "publisher")
    worker("proj", env=env, args=["-B", "--schedule", str(tmp_path / "beat")], **runner)
    statuses = Rows(database.url)
    wait_for(lambda: statuses.jobs.snapshot(job_id).status.terminal, 40, what="the job's end")
    snapshot = statuses.jobs.snapshot(job_id)
    statuses.database.dispose()
    assert (snapshot.status, snapshot.chunks.completed) == (JobStatus.PARTIAL, 2)
    ran_in = str(old_code if old == "worker" else ROOT)
    assert [failure.message for failure in snapshot.failures] == [
        f"Chunk 2 (pages 2-2) failed: boom in {ran_in}/celery_progress_ext/__init__.py"
    ]
    assert out.read_text().splitlines() == [f"[0, 2] {ran_in}/celery_progress_ext/__init__.py"]
    assert audit(database) == []


def test_a_newer_schema_is_left_alone(database: Database) -> None:
    """A process of the version before restarts after the migration: its `migrate` must not stop it."""
    migrate(database)
    with database.engine.begin() as conn:
        conn.execute(sa.text("UPDATE celery_progress_version SET version_num = '9999'"))
    assert usable(database)
    with capture_logs() as logs:
        assert migrate(database) == "9999" == current(database)
    assert [line["event"] for line in logs] == ["schema_is_newer"]


def test_tables_that_are_missing_are_not_usable(database: Database) -> None:
    """A readiness check says so."""
    assert not usable(database)
