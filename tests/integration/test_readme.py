"""Every block of the README runs, as a reader would run it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tasks.embedded.servers import free_port
from tests.support.processes import ROOT, TestProcess

README = (ROOT / "README.md").read_text()


def _block(name: str) -> str:
    """The code block behind the comment `<!-- runs: NAME -->`."""
    found = re.search(rf"<!-- runs: {re.escape(name)} -->\n```\w+\n(.*?)```", README, re.S)
    assert found, f"the README has no block {name!r}"
    return found[1]


def _output(name: str) -> str:
    """The output behind the comment `<!-- prints: NAME -->`."""
    found = re.search(rf"<!-- prints: {re.escape(name)} -->\n```text\n(.*?)```", README, re.S)
    assert found, f"the README shows no output of {name!r}"
    return found[1]


def _without_what_changes(output: str) -> list[list[str]]:
    """Words of each line, without ids, and without how long it took."""
    return [
        re.sub(r"\b[0-9a-f]{8}\b|\b\d+:\d\d\b|\b\d+ s\b", "…", line).split() for line in output.strip().splitlines()
    ]


@pytest.fixture
def project(tmp_path: Path, redis_url: str) -> Path:
    """The reader's folder, with the README's files in it, on a Redis of the test."""
    for name in ("proj.py", "server.py"):
        (tmp_path / name).write_text(_block(name).replace("redis://127.0.0.1:6379/0", redis_url))
    return tmp_path


def _environment() -> dict[str, str]:
    """The reader's PATH leads to the environment that the library is installed in."""
    bin_folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]), "PYTHONPATH": "."}


def test_the_commands_run_one_after_the_other(project: Path) -> None:
    """Migrate, worker, run, list, audit; the last line of the run is a merged document, and the server shows its end.
    The settings are good ones.
    """
    said = {}
    background: list[TestProcess] = []
    try:
        for line in _block("commands").splitlines():
            argv = shlex.split(line.rstrip("& "))
            if line.endswith("&"):
                log = project / "worker.log"
                process = TestProcess(argv, log=log, env=_environment(), cwd=project)
                background.append(process.start())
                continue
            done = subprocess.run(
                argv, cwd=project, env=_environment(), capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr, f"{line}\n{done.stderr}"
            said[argv[-1]] = done.stdout
        argv = ["celery", "-A", "proj", "progress", "list", "--json"]
        listed = subprocess.run(
            argv, cwd=project, env=_environment(), capture_output=True, text=True, check=True, timeout=60
        )
        job_id = re.search(r"job_[0-9a-f]{32}", listed.stdout)
        assert job_id, listed.stdout
        assert "event:completed" in _served(project, job_id[0], background)
        assert "risky_setting" not in (project / "worker.log").read_text()
    finally:
        for process in background:
            process.kill()
    assert said["proj.py"].splitlines()[-1] == "100 Merging OCR results 60/60"
    assert _without_what_changes(said["list"]) == _without_what_changes(_output("list"))


def _served(project: Path, job_id: str, background: list[TestProcess]) -> str:
    """What a reader of a job's stream gets from the server of the README, on a port of the test."""
    line = _block("serve").split("#")[0]
    port = free_port()
    log = project / "server.log"
    argv = [*shlex.split(line), "--bind", f"127.0.0.1:{port}"]
    process = TestProcess(argv, log=log, env=_environment(), cwd=project, ready_line="Booting worker")
    background.append(process.start())
    return httpx.get(f"http://127.0.0.1:{port}/api/jobs/{job_id}/events", timeout=20).text


def test_the_server_block_has_the_streams(project: Path) -> None:
    """With the routes that the text names."""
    code = "import server; print(sorted(str(rule) for rule in server.server.url_map.iter_rules()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "/api/jobs/<job_id>/events" in done.stdout


def test_the_make_targets_of_the_readme_exist() -> None:
    """`make run` and `make test` themselves run in CI and by hand."""
    targets = set(re.findall(r"^make (\w+)", README, re.M))
    makefile = (ROOT / "Makefile").read_text()
    assert targets == {"run", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_the_service_commands_of_the_readme_are_understood() -> None:
    """Their options are those of the program."""
    lines = re.findall(r"^python -m tasks (\w+) (.*)$", README, re.M)
    assert {command for command, _ in lines} == {"submit", "ocr"}
    for command, arguments in lines:
        options = set(re.findall(r"--[\w-]+", arguments))
        argv = [sys.executable, "-m", "tasks", command, "--help"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
        assert options <= set(re.findall(r"--[\w-]+", done.stdout))
