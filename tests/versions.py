"""Run the tests on every supported release of Celery, redis-py, SQLAlchemy and Python: ``make versions``.

    python tests/versions.py [--list] [--cell NAME]… [TEST …]

A *cell* is one combination. Each has an environment of its own, which uv makes in a temporary folder. ``--cell`` names
one, or, as a part of the name, all that have it: ``celery5.4``, ``python3.13``, ``lowest``; so CI can run a cell a job
(``--list`` prints the names). A cell runs the library's tests; the OCR service is tested on the newest releases, where
``make test`` runs it. A Python that neither this machine nor uv has is named and skipped. The exit code is 1 where a
cell failed, or where none could run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_CLASSIFIER = "Programming Language :: Python :: 3."
_UV = [sys.executable, "-m", "uv"]

#: What tests the service, or what a cell's versions have no part in.
_NOT_THE_LIBRARY = (
    "tests/acceptance",
    "tests/faults/test_chaos.py",
    "tests/faults/test_pages_as_they_come.py",
    "tests/interleavings",
    "tests/integration/test_flower.py",
    "tests/integration/test_keys.py",
    "tests/integration/test_openapi.py",
    "tests/integration/test_preflights.py",
    "tests/integration/test_pytest_celery.py",
    "tests/integration/test_service_lanes.py",
    "tests/integration/test_stack.py",
    "tests/integration/test_web*.py",
    "tests/unit/test_pdf*.py",
)


@dataclass(frozen=True)
class Cell:
    """One combination; each version is the start of those that fit (``5.4`` is any 5.4.x).

    :ivar resolution: what uv chooses of everything else: the ``highest``, or the ``lowest-direct`` of pyproject.toml.
    """

    celery: str
    kombu: str
    redis: str
    sqlalchemy: str
    python: str
    resolution: str = "highest"

    @property
    def name(self) -> str:
        """As ``--cell`` takes it."""
        if self.resolution != "highest":
            return f"lowest-python{self.python}"
        return f"celery{self.celery}-redis{self.redis}-sqlalchemy{self.sqlalchemy}-python{self.python}"

    @property
    def constraints(self) -> list[str]:
        """As pip reads them."""
        if self.resolution != "highest":
            return []
        return [f"{name}=={getattr(self, name)}.*" for name in ("celery", "kombu", "redis", "sqlalchemy")]


#: Each minor of Celery with the kombu of its time and the oldest and newest redis-py that this allows; each redis-py
#: from 5 to 8, both SQLAlchemys, each Python.
CELLS: tuple[Cell, ...] = (
    Cell("5.4", "5.4", "5.0", "2.0", "3.11"),
    Cell("5.4", "5.5", "5.2", "2.1", "3.12"),
    Cell("5.5", "5.5", "5.2", "2.0", "3.12"),
    Cell("5.5", "5.5", "5.0", "2.1", "3.13"),
    Cell("5.6", "5.6", "5.2", "2.0", "3.11"),
    Cell("5.6", "5.6", "6.4", "2.1", "3.13"),
    Cell("5.7", "5.7", "6.4", "2.0", "3.12"),
    Cell("5.7", "5.7", "7", "2.0", "3.11"),
    Cell("5.7", "5.7", "8", "2.1", "3.13"),
    Cell("5.7", "5.7", "8", "2.1", "3.14"),
    Cell("5.4", "5.4", "5.0", "2.0", "3.11", resolution="lowest-direct"),
)


def claimed() -> list[str]:
    """The Pythons of pyproject.toml's classifiers: "3.11", "3.12", …"""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [each.rpartition(" ")[2] for each in project["classifiers"] if each.startswith(_CLASSIFIER)]
    return sorted(found, key=lambda version: tuple(map(int, version.split("."))))


def _candidates(version: str) -> Iterator[str]:
    if sys.version.startswith(f"{version}."):
        yield sys.executable
    if named := shutil.which(f"python{version}"):
        yield named
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))


def find(version: str) -> str | None:
    """A Python of this version, or None: one of this machine, or one that uv brings. One that pyenv names but does not
    run here is none.
    """
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for each in _candidates(version):
        said = subprocess.run([each, "-c", code], capture_output=True, text=True, check=False)
        if said.returncode == 0 and said.stdout.strip() == version:
            return each
    subprocess.run([*_UV, "python", "install", "--quiet", version], capture_output=True, check=False)
    managed = [*_UV, "python", "find", "--quiet", "--managed-python", version]
    found = subprocess.run(managed, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def run(cell: Cell, python: str, tests: list[str]) -> bool:
    """Make the environment, and run the tests in it; whether they passed."""
    with tempfile.TemporaryDirectory(prefix=f"{cell.name}-") as folder:
        inside, constraints = Path(folder) / "venv" / "bin" / "python", Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(cell.constraints))
        chosen = ["--resolution", cell.resolution, "--constraints", str(constraints)]
        ignored = [f"--ignore-glob={ROOT / each}" for each in _NOT_THE_LIBRARY] if not tests else []
        steps = [
            [*_UV, "venv", "--quiet", "--python", python, str(inside.parents[1])],
            [*_UV, "pip", "install", "--quiet", "--python", str(inside), *chosen, "--editable", ".[dev]"],
            [*_UV, "pip", "freeze", "--quiet", "--python", str(inside), "--exclude-editable"],
            [str(inside), "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", *ignored, *tests],
        ]
        env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        return all(subprocess.run(step, cwd=ROOT, env=env, check=False).returncode == 0 for step in steps)


def main() -> int:
    """Run what was asked for, and say of each how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", action="append", metavar="NAME", help="a cell's name, or a part of it")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("tests", nargs="*", help="what pytest is given; the library's tests")
    given = parser.parse_args()
    cells = [cell for cell in CELLS if not given.cell or any(part in cell.name for part in given.cell)]
    if given.list:
        print(*(cell.name for cell in cells), sep="\n")
        return 0
    outcomes: dict[str, str] = {}
    for cell in cells:
        python = find(cell.python)
        if python is None:
            outcomes[cell.name] = f"skipped: there is no Python {cell.python} here"
            continue
        print(f"== {cell.name}: {python}", flush=True)
        outcomes[cell.name] = "passed" if run(cell, python, given.tests) else "FAILED"
    print(*(f"{name}: {outcome}" for name, outcome in outcomes.items()), sep="\n")
    return int("FAILED" in outcomes.values() or "passed" not in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
