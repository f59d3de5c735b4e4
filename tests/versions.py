"""Run tests with the lowest allowed versions, and on each Python that pyproject.toml claims: ``make versions``.

    python tests/versions.py [--only 3.13] [--only lowest] [TEST …]

Each run has an environment of its own under ``var/versions``, which uv makes. A Python that is not on this machine is
named and skipped. The exit code is 1 where a run failed, or where none could be made.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_CLASSIFIER = "Programming Language :: Python :: 3."


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
    """A Python of this version, or None. One that pyenv names but does not run here is none."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for each in _candidates(version):
        said = subprocess.run([each, "-c", code], capture_output=True, text=True, check=False)
        if said.returncode == 0 and said.stdout.strip() == version:
            return each
    return None


def run(name: str, python: str, options: list[str], tests: list[str]) -> bool:
    """Make the environment, and run the tests in it; whether they passed."""
    folder = ROOT / "var" / "versions" / name
    inside = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    steps = [
        [*uv, "venv", "--quiet", "--clear", "--python", python, str(folder)],
        [*uv, "pip", "install", "--quiet", "--python", str(inside), *options, "--editable", ".[dev]"],
        [str(inside), "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", *tests],
    ]
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return all(subprocess.run(step, cwd=ROOT, env=env, check=False).returncode == 0 for step in steps)


def main() -> int:
    """Run what was asked for, and say of each how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help='"lowest", or one of the Pythons')
    parser.add_argument("tests", nargs="*", help="what pytest is given; all tests")
    given = parser.parse_args()
    versions = claimed()
    plan = [("lowest", versions[0], ["--resolution", "lowest-direct"]), *((each, each, []) for each in versions)]
    outcomes: dict[str, str] = {}
    for name, version, options in plan:
        if given.only and name not in given.only:
            continue
        python = find(version)
        if python is None:
            outcomes[name] = f"skipped: there is no Python {version} here"
            continue
        print(f"== {name}: {python}", flush=True)
        outcomes[name] = "passed" if run(name, python, options, given.tests) else "FAILED"
    print(*(f"{name}: {outcome}" for name, outcome in outcomes.items()), sep="\n")
    return int("FAILED" in outcomes.values() or "passed" not in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
