"""What is shipped, and what a process of the web application does not load."""

from __future__ import annotations

import configparser
import stat
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from celery_progress_ext.cli import progress
from tests.support.processes import ROOT

_PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as setuptools would put it into a wheel."""
    folder = tmp_path_factory.mktemp("built")
    # Both folders elsewhere: neither a build nor metadata is left in the checkout.
    build = ["-q", "egg_info", "--egg-base", str(folder), "build_py", "--build-lib", str(folder / "lib")]
    argv = [sys.executable, "-W", "ignore", "-c", "from setuptools import setup; setup()", *build]
    subprocess.run(argv, cwd=ROOT, check=True)
    return folder / "lib"


def test_the_wheel_ships_the_library_alone(built: Path) -> None:
    """`tasks` and `web` are names too generic for site-packages."""
    assert [path.name for path in built.iterdir()] == ["celery_progress_ext"]


@pytest.mark.parametrize(
    "pattern", ["py.typed", "**/*.lua", "migrations/versions/*.py", "migrations/*.mako", "static/*"]
)
def test_what_is_not_a_module_is_shipped_too(built: Path, pattern: str) -> None:
    """Every file of the kind that the checkout has, the package has."""
    package = built / "celery_progress_ext"
    wanted = {path.relative_to(ROOT / "celery_progress_ext") for path in (ROOT / "celery_progress_ext").glob(pattern)}
    assert wanted
    assert {path.relative_to(package) for path in package.glob(pattern)} == wanted


def test_celery_finds_the_commands() -> None:
    """`celery -A APP progress …` comes from the entry point."""
    (found,) = entry_points(group="celery.commands", name="progress")
    assert found.load() is progress


def test_web_loads_no_ocr_engine_and_no_pdf_library() -> None:
    """Not even indirectly: a web process stays small, and parses nothing that a stranger sent."""
    code = "import sys, web; print(*{'tesserocr', 'pypdfium2', 'pikepdf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


#: What only some processes need: for migrations, the web application, PostgreSQL, a terminal, log lines that are seen.
_NOT_FOR_EVERYBODY = ("alembic", "flask", "psycopg2", "rich")


def _loaded(code: str, *modules: str) -> list[str]:
    """Those of ``modules`` that a process of its own has loaded after ``code``."""
    code = f"import sys\n{code}\nprint(*[name for name in {modules!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_celerys_command_line_does_not_load_the_library() -> None:
    """Each of its commands imports every entry point, also for an app that tracks nothing: 20 MB a process."""
    modules = (
        "celery_progress_ext.cli",
        "celery_progress_ext.extension",
        *_NOT_FOR_EVERYBODY,
    )
    assert _loaded("import celery.bin.celery", *modules) == ["celery_progress_ext.cli"]


def test_the_library_on_sqlite_loads_only_what_it_uses() -> None:
    """All of its public names, and a query: neither Alembic nor another database's driver."""
    code = "from celery_progress_ext import *; from celery_progress_ext.storage import Database; import sqlalchemy\n"
    query = "Database('sqlite://').rows(sqlalchemy.text('SELECT 1'))"
    assert _loaded(f"{code}{query}", *_NOT_FOR_EVERYBODY) == []


def test_the_routes_load_no_web_framework() -> None:
    """What they answer is the same for every framework, and none of them needs another."""
    frameworks = ("flask", "flask_sse", "django", "starlette", "gevent")
    assert _loaded("import celery_progress_ext.sse.routes", *frameworks) == []


def test_the_services_worker_and_web_do_not_load_alembic() -> None:
    """Only `migrate` does."""
    assert _loaded("import tasks.celery_app, tasks.ocr_tasks, tasks.pipeline", "alembic") == []
    assert _loaded("import web, web.health", "alembic") == []


def test_the_procfile_names_the_four_processes() -> None:
    """What is done before a release, then web, worker, beat and flower, in the order in which they are read about."""
    names = [line.partition(":")[0] for line in (ROOT / "Procfile").read_text().splitlines()]
    assert names == ["release", "web", "worker", "beat", "flower"]


def test_setup_cfg_says_nothing_that_pyproject_can_say() -> None:
    """One place for metadata and tool settings; what stands here agrees with it."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert set(parser.sections()) == {"pycodestyle", "flake8"}
    lengths = {int(parser[section]["max-line-length"]) for section in parser.sections()}
    assert lengths == {_PYPROJECT["tool"]["ruff"]["line-length"]}


def test_the_ci_script_can_be_run() -> None:
    """It is called by its name."""
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR
