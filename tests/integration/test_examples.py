"""The projects in examples/: ten changed lines at most make a chord live, and what they did before they still do."""

from __future__ import annotations

import difflib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tasks.embedded.servers import free_port
from tests.support.live import EventReader
from tests.support.processes import ROOT, TestProcess, WorkerProcess

EXAMPLES = ROOT / "examples"
PROJECTS = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
Workers = Callable[..., WorkerProcess]
Server = Callable[..., tuple[int, TestProcess]]


def sources(folder: Path) -> dict[Path, list[str]]:
    """The lines of each file."""
    return {
        path.relative_to(folder): path.read_text().splitlines()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".py", ".html")
    }


def changed_lines(before: list[str], after: list[str]) -> int:
    """A line that was rewritten counts once, as one that was added or removed does."""
    steps = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return sum(max(i2 - i1, j2 - j1) for step, i1, i2, j1, j2 in steps if step != "equal")


@pytest.mark.parametrize("name", PROJECTS)
def test_ten_changed_lines_are_enough(name: str) -> None:
    """In a project of less than a hundred lines that has nothing to do with OCR."""
    before, after = sources(EXAMPLES / name / "before"), sources(EXAMPLES / name / "after")
    assert set(before) == set(after)
    changed = sum(changed_lines(before[path], after[path]) for path in before)
    assert 0 < changed <= 10
    [row] = re.findall(rf"^\| \[{name}\].*\| (\d+) \|$", (EXAMPLES / "README.md").read_text(), re.M)
    assert changed == int(row)
    lines = [line for path in after for line in after[path] if line.strip()]
    assert len(lines) < 100
    assert not any(re.search(r"\bocr\b", line, re.I) for line in lines)


@pytest.fixture
def run(redis_url: str, tmp_path: Path) -> Callable[..., str]:
    """Run a command of a project; what it prints."""

    def runs(project: Path, *argv: str, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, *argv],
            cwd=project,
            env=environment(redis_url, tmp_path, **env),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return runs


def environment(redis_url: str, folder: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": redis_url,
        "PROGRESS_DATABASE_URL": f"sqlite:///{folder / 'progress.db'}",
        **more,
    }


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Server:
    """Serve a project; its port, and the process."""

    def serve(project: Path, *argv: str, env: dict[str, str]) -> tuple[int, TestProcess]:
        port = free_port()
        process = TestProcess(
            [sys.executable, *(each.format(port=port) for each in argv)],
            log=tmp_path / "server.log",
            env=env,
            cwd=project,
            python_path=[project],
        )
        request.addfinalizer(process.kill)
        process.start()
        return port, process

    return serve


def get(client: httpx.Client, path: str, wait_for: Callable[..., Any]) -> httpx.Response:
    """The first answer of a server that starts."""

    def answer() -> httpx.Response | None:
        try:
            return client.get(path)
        except httpx.TransportError:
            return None

    found: httpx.Response = wait_for(answer, 20, what="the server")
    return found


def last_event(port: int, page: str, headers: dict[str, str] | None = None) -> Any:
    """Follow the job of a page to its end."""
    [job_id] = re.findall(r'<job-progress job="([^"]+)"', page)
    with EventReader(port, f"/progress/jobs/{job_id}/events", headers) as reader:
        assert reader.response.status == 200
        return [*reader.events()][-1]


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_script_with_a_chord(
    side: str, run: Callable[..., str], worker: Workers, redis_url: str, tmp_path: Path
) -> None:
    """It prints the same, and after the change a bar."""
    project = EXAMPLES / "word_count" / side
    texts = [tmp_path / f"{number}.txt" for number in range(3)]
    for number, text in enumerate(texts):
        text.write_text("the bar never lies " + "the " * number)
    if side == "after":
        run(project, "-m", "celery", "-A", "words", "progress", "migrate")
    env = environment(redis_url, tmp_path)
    worker("words", env=env, cwd=project, python_path=[project], args=["-B", "--schedule", str(tmp_path / "beat")])
    said = run(project, "words.py", *map(str, texts))
    assert re.search(r"\['the', 6\]|\('the', 6\)", said)
    assert ("3/3 files" in said) is (side == "after")


def test_thumbnails_with_fastapi(
    run: Callable[..., str],
    server: Server,
    worker: Workers,
    redis_url: str,
    tmp_path: Path,
    wait_for: Callable[..., Any],
) -> None:
    """The page has a live bar, and the job makes the contact sheet. A stream does not hold up the server's end."""
    project = EXAMPLES / "thumbnails" / "after"
    folder = tmp_path / "holiday"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (400, 300), (number * 60, 0, 0)).save(folder / f"{number}.jpg")
    env = environment(redis_url, tmp_path, PICTURES=str(tmp_path))
    run(project, "-m", "celery", "-A", "app:celery_app", "progress", "migrate")
    worker(
        "app:celery_app", env=env, cwd=project, python_path=[project], args=["-B", "--schedule", str(tmp_path / "b")]
    )
    port, process = server(project, "-m", "uvicorn", "app:app", "--port", "{port}", env=env)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert get(client, "/progress/assets/progress.js", wait_for).status_code == 200
        event = last_event(port, client.post("/folders/holiday").text)
    assert (event.name, event.payload["chunks"]["completed"], event.payload["unit"]) == ("completed", 4, "pictures")
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.size == (4 * 128, 128)
    with EventReader(port, "/progress/matters/somebody/events") as reader:
        reader.read_until(b"retry:2000\n")
        process.stop()
        assert list(reader.events()) == []


def test_a_nightly_import_with_django(
    run: Callable[..., str],
    server: Server,
    worker: Workers,
    redis_url: str,
    tmp_path: Path,
    wait_for: Callable[..., Any],
) -> None:
    """Staff see a live bar; results stay with django-celery-results, and the jobs are in Django's own database."""
    project = EXAMPLES / "nightly_import" / "after"
    prices = tmp_path / "prices.csv"
    prices.write_text("sku,name,cents\n" + "".join(f"{number},Product {number},{number}\n" for number in range(450)))
    own = {
        "SECRET_KEY": "x" * 50,
        "DATABASE": str(tmp_path / "shop.sqlite3"),
        "PRICE_LIST": str(prices),
        "DJANGO_SUPERUSER_PASSWORD": "secret",
    }
    env = {name: value for name, value in environment(redis_url, tmp_path, **own).items() if "PROGRESS_D" not in name}
    run(project, "manage.py", "migrate", "--run-syncdb", **own, PROGRESS_DATABASE_URL="")
    run(project, "manage.py", "createsuperuser", "--noinput", "--username", "ann", "--email", "a@example.org", **own)
    worker("shop", env=env, cwd=project, python_path=[project], args=["-B", "--schedule", str(tmp_path / "beat")])
    port, _ = server(project, "manage.py", "runserver", "--noreload", "{port}", env=env)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True) as client:
        get(client, "/admin/login/", wait_for)
        form = {"csrfmiddlewaretoken": client.cookies["csrftoken"], "username": "ann", "password": "secret"}
        assert client.post("/admin/login/?next=/imports/", data=form).status_code == 200
        page = client.post("/imports/", data={"csrfmiddlewaretoken": client.cookies["csrftoken"]}).text
        assert "<job-progress" in page
        [job_id] = re.findall(r'<job-progress job="([^"]+)"', page)
        assert httpx.get(f"http://127.0.0.1:{port}/progress/jobs/{job_id}").status_code == 403
        cookie = {"Cookie": f"sessionid={client.cookies['sessionid']}"}
        event = last_event(port, page, cookie)
        assert job_id in client.get("/admin/celery_progress/job/").text
    assert (event.name, event.payload["pages"]) == ("completed", {"total": 450, "done": 450})
    with sqlite3.connect(own["DATABASE"]) as database:
        [(products,)] = database.execute("SELECT COUNT(*) FROM shop_product")
        [(result,)] = database.execute(
            "SELECT result FROM django_celery_results_taskresult WHERE task_id = ?", (job_id,)
        )
    database.close()
    assert products == 450
    assert "450 products" in result
