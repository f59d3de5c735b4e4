"""How a command finds the service that runs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.cli.running import NotRunning, Running, announced, find


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, and a user's state of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def _service(folder: Path, pid: int | None = None) -> Running:
    folder.mkdir(parents=True)
    return Running(url="http://127.0.0.1:8000", key="a-key-of-the-test", pid=pid or os.getpid())


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_it_is_found_here_and_from_elsewhere(home: Path) -> None:
    """By its data directory, and without; the file with the key is for its owner alone, and goes."""
    service = _service(home / "data")
    with announced(home / "data", service):
        assert find(None) == find(home / "data") == service
        assert stat.S_IMODE((home / "data" / "running.json").stat().st_mode) == 0o600
    assert list((home / "data").iterdir()) == []
    with pytest.raises(NotRunning, match="No service runs here"):
        find(None)


def test_the_one_in_var_goes_first(home: Path) -> None:
    """Where it was started is where it is looked for."""
    near, far = _service(home / "here" / "var"), _service(home / "far")
    with announced(Path("var"), near), announced(home / "far", far):
        assert find(None) == near


def test_of_two_elsewhere_one_has_to_be_chosen(home: Path) -> None:
    """Both are named."""
    one, other = _service(home / "one", os.getppid()), _service(home / "two")
    with (
        announced(home / "one", one),
        announced(home / "two", other),
        pytest.raises(NotRunning, match=r"--data-dir .*/one, --data-dir .*/two"),
    ):
        find(None)


def test_what_a_killed_service_left_is_not_believed(home: Path) -> None:
    """It is said which one ended."""
    pid = _dead_pid()
    with announced(home / "data", _service(home / "data", pid)):
        with pytest.raises(NotRunning, match=f"process {pid}\\) ended without a word"):
            find(home / "data")
        with pytest.raises(NotRunning, match="No service runs here"):
            find(None)


def test_a_file_that_was_cut_is_no_service(home: Path) -> None:
    """As after a full disk."""
    (home / "data").mkdir()
    (home / "data" / "running.json").write_text('{"url": "http')
    with pytest.raises(NotRunning, match="No service runs in"):
        find(home / "data")


def test_over_http_no_database_is_loaded() -> None:
    """Nor a broker or an engine: such a command leaves nothing where it runs."""
    heavy = "{'sqlalchemy', 'celery', 'pikepdf', 'tesserocr'}"
    code = f"import sys; from tasks.cli import submit, remote_service; print({heavy} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
