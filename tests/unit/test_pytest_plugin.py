"""The pytest plugin: what `docs/testing.md` shows works, and a suite that does not use it loads nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.support.processes import ROOT

_PAGE = (ROOT / "docs" / "testing.md").read_text()
_PLUGIN = "celery_progress_ext.pytest_plugin"


def _block(name: str) -> str:
    """The code block behind the comment `<!-- runs: NAME -->`."""
    found = re.search(rf"<!-- runs: {re.escape(name)} -->\n```\w+\n(.*?)```", _PAGE, re.S)
    assert found, f"the page has no block {name!r}"
    return found[1]


def test_the_blocks_of_the_page_run(tmp_path: Path) -> None:
    """As a reader would run them, without a server and with warnings as errors; the app's Redis is not there."""
    for name in ("shop.py", "test_shop.py"):
        (tmp_path / name).write_text(_block(name).replace(":6379", ":1"))
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    argv = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", _PLUGIN, "-p", "no:cacheprovider"]
    done = subprocess.run([*argv, str(tmp_path)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_loading_the_plugin_imports_nothing_of_the_library() -> None:
    """It is loaded in every suite of the environment."""
    code = (
        f"import sys, {_PLUGIN};"
        "print(*sorted(m for m in sys.modules if m.split('.')[0] in {'celery', 'sqlalchemy', 'redis', 'kombu'}"
        " or m.startswith('celery_progress_ext.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [_PLUGIN]


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    """So that an installation is all that a project needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"celery_progress": _PLUGIN}
