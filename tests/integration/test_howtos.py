"""The how-tos of the frameworks: their lines are those of the examples, and their other blocks run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.processes import ROOT

DOCS = ROOT / "docs"
PAGES = ("django.md", "fastapi.md", "flask.md", "coming-from-celery-progress.md")
_BLOCK = re.compile(r"(?:<!-- (\w+)(?:: (\S+))? -->\n)?```(?:python|html)\n(.*?)```", re.S)


def blocks(page: str, mark: str) -> dict[str, str]:
    """What each marked block of a page names, and the block."""
    return {name: block for kind, name, block in _BLOCK.findall((DOCS / page).read_text()) if kind == mark}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_shown_where_it_runs(page: str) -> None:
    """Lines of an example, a file that a test runs, or what somebody had before."""
    found = _BLOCK.findall((DOCS / page).read_text())
    assert found
    assert {kind for kind, _, _ in found} <= {"in", "runs", "like", "before"}
    for path, block in blocks(page, "in").items():
        lines = {line.strip() for line in (ROOT / path).read_text().splitlines()}
        text = (ROOT / path).read_text()
        assert [line for line in block.splitlines() if line.strip() not in lines and line.strip() not in text] == []
    for path, block in blocks(page, "like").items():
        assert block.replace("/progress", "/api").replace("{{ job.id }}", "JOB") in (DOCS / path).read_text()


def run(folder: Path, *argv: str, **env: str) -> str:
    """Run Python in a folder; what it prints."""
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def write(folder: Path, page: str, redis_url: str) -> None:
    """A page's files."""
    for name, block in blocks(page, "runs").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(block.replace("redis://127.0.0.1:6379/0", redis_url))


def test_a_rule_of_a_django_project() -> None:
    """It lets the members of the owner's group read."""
    names: dict[str, object] = {}
    exec(blocks("django.md", "runs")["rules.py"], names)
    groups = SimpleNamespace(filter=lambda name: SimpleNamespace(exists=lambda: name == "sales"))
    request = SimpleNamespace(user=SimpleNamespace(is_authenticated=True, groups=groups))
    for owner, reads in (("sales", True), ("other", False), (None, False)):
        assert names["may_read"](request, SimpleNamespace(owner=owner)) is reads  # type: ignore[operator]


def test_a_django_project_s_own_tests(tmp_path: Path, redis_url: str) -> None:
    """`on_commit` in a TestCase, on Django's in-memory database."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "examples" / "nightly_import" / "after", project)
    write(project, "django.md", redis_url)
    (project / "prices.csv").write_text("sku,name,cents\n1,One,1\n")
    said = run(project, "manage.py", "test", SECRET_KEY="x" * 50, REDIS_URL=redis_url, DATABASE=str(tmp_path / "db"))
    assert re.search(r"Ran 1 test.*\n\nOK", said)


_CHECK_FASTAPI = """
from fastapi.testclient import TestClient
from celery_progress_ext import tracked_chord
from following import app, progress

progress.migrate()
job = tracked_chord([progress.app.signature("t")], progress.app.signature("b"), owner="ann", app=progress.app)
job = job.apply_async()
job.cancel()
with TestClient(app) as client:
    path = f"/progress/jobs/{job.id}/events"
    print(client.get(path).status_code, client.get(path, headers={"Authorization": "Bearer key-of-ann"}).text)
    print(client.get(f"/wait/{job.id}").json(), client.get(f"/result/{job.id}").json())
    print(sorted(client.get("/openapi.json").json()["paths"]))
"""


def test_a_fastapi_application_with_owners(tmp_path: Path, redis_url: str) -> None:
    """The owner reads the stream, nobody else; a job is waited for."""
    write(tmp_path, "fastapi.md", redis_url)
    (tmp_path / "check.py").write_text(_CHECK_FASTAPI)
    said = run(tmp_path, "check.py")
    assert said.startswith("403 : ok")
    assert "event:cancelled" in said
    assert "] True" in said
    assert "/progress/jobs/{job_id}/events" in said


_CHECK_FLASK = """
from celery_progress_ext import tracked_chord
from server import app, progress

progress.migrate()
job = tracked_chord([progress.app.signature("t")], progress.app.signature("b"), owner="ann", app=progress.app)
job = job.apply_async()
job.cancel()
path = f"/progress/jobs/{job.id}/events"
client = app.test_client()
print(client.get(path).status_code, client.get(path, headers={"Authorization": "Bearer key-of-ann"}).text)
"""


def test_a_flask_application_with_owners(tmp_path: Path, redis_url: str) -> None:
    """The same."""
    write(tmp_path, "flask.md", redis_url)
    (tmp_path / "check.py").write_text(_CHECK_FLASK)
    said = run(tmp_path, "check.py")
    assert said.startswith("403 : ok")
    assert "event:cancelled" in said


_BEFORE_RESIZE = """
from celery import Celery
from celery_progress_ext import CeleryProgress

app = Celery("resize", broker={url!r}, backend={url!r})
progress = CeleryProgress(app)
progress.migrate()
shrink = print
"""


def test_a_task_of_celery_progress(tmp_path: Path, redis_url: str) -> None:
    """It is a job, and it also runs by itself."""
    code = _BEFORE_RESIZE.format(url=redis_url) + blocks("coming-from-celery-progress.md", "runs")["resize.py"]
    (tmp_path / "resize.py").write_text(code + "\nprint(job.snapshot().unit)\nresize(['c.jpg'])\n")
    assert run(tmp_path, "resize.py").split() == ["pictures", "c.jpg"]
