"""What a browser makes of the blueprint alone: each block of docs/browser.md, and the element on another site."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from celery_progress_ext.broadcast.redis import RedisBroadcaster
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.storage import job_changes
from celery_progress_ext.tokens import Tokens
from tasks.embedded.servers import RedisServer, free_port
from tests.support.processes import ROOT, TestProcess
from tests.support.rows import Rows

DOCS = (ROOT / "docs" / "browser.md").read_text()
README = (ROOT / "README.md").read_text()
SECRET = "a-secret-of-the-browser-tests"
TOKENS = Tokens([SECRET])
#: How long a page may take. Milliseconds.
SOON = 20_000


def block(name: str, text: str = DOCS, **words: str) -> str:
    """A block of the documentation, with its words in capitals replaced."""
    found = re.search(rf"<!-- runs: {re.escape(name)} -->\n```\w+\n(.*?)```", text, re.S)
    assert found, f"no block {name!r}"
    code = found[1]
    for word, value in words.items():
        code = re.sub(rf"\b{word}\b", value, code)
    return code


@dataclass
class Server:
    """README's server, as a reader would start it, and the rows of its jobs."""

    process: TestProcess
    url: str
    rows: Rows
    broadcaster: RedisBroadcaster

    def job(self, **options: Any) -> str:
        """A new job of four chunks; the first has begun."""
        job_id = self.rows.create(4, **options)
        self.rows.start(job_id, 0)
        return self.say(job_id)

    def create(self, job_id: str) -> None:
        """A job with an id that somebody knows already."""
        new = self.rows.new_job(job_id, 4)
        self.rows.database.write(lambda conn: job_changes.create(conn, new, due=30))

    def say(self, job_id: str) -> str:
        """Broadcast what the rows say, as a worker does after each commit."""
        self.broadcaster.publish(self.rows.snapshots.get(job_id))
        return job_id

    def complete(self, job_id: str, *chunks: int) -> None:
        """Chunks end well, one after the other."""
        for index in chunks:
            self.rows.start(job_id, index)
            self.rows.complete(job_id, index)
            self.say(job_id)

    def end(self, job_id: str, status: JobStatus = JobStatus.COMPLETED) -> None:
        """The job ends."""
        assert self.rows.tell(job_id, status) is not None
        self.say(job_id)


@dataclass
class Shop:
    """Another site: its pages, and the tokens that its server gives to them."""

    url: str
    pages: dict[str, str] = field(default_factory=dict)
    token: Callable[[], str | None] = lambda: None
    asked: int = 0


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """On a port of its own, so of another origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress-token":
                made.asked += 1
                token = made.token()
                self.send(json.dumps({"token": token}) if token else "{}", "application/json", 200 if token else 403)
            elif self.path in made.pages:
                self.send(made.pages[self.path], "text/html; charset=utf-8")
            else:
                self.send("", "text/plain", 404)

        def send(self, content: str, kind: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Shop(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()


@pytest.fixture(scope="module")
def server(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Under gunicorn with gevent, on a Redis and an SQLite file of its own."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    with RedisServer() as redis:
        for name in ("proj.py", "server.py"):
            code = block(name, README).replace("redis://127.0.0.1:6379/0", redis.url)
            # Looks for what was broadcast while nobody listened sooner than after 15 s.
            (folder / name).write_text(
                code.replace("(progress, authorize)", "(progress, authorize, keepalive_seconds=1)")
            )
        env = {
            "PROGRESS_DATABASE_URL": f"sqlite:///{folder}/progress.db",
            "PROGRESS_TOKEN_SECRETS": SECRET,
            "PROGRESS_ALLOWED_ORIGINS": shop.url,
        }
        rows = Rows(env["PROGRESS_DATABASE_URL"])
        argv = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", f"127.0.0.1:{port}", "server:server"]
        process = TestProcess(
            argv, log=folder / "server.log", env=env, cwd=folder, python_path=[folder], ready_line="Booting worker"
        )
        process.start()
        try:
            yield Server(process, f"http://127.0.0.1:{port}", rows, RedisBroadcaster(redis.url))
        finally:
            process.kill()
            rows.database.dispose()


@pytest.fixture
def show(page: Any, server: Server) -> Callable[[str], None]:
    """``show(html)``: a page of the server's own origin."""

    def shown(html: str) -> None:
        # Only the page itself is ours: what it loads comes from the server.
        page.route(f"{server.url}/page", lambda route: route.fulfill(body=html, content_type="text/html"))
        page.goto(f"{server.url}/page")

    return shown


#: Notes every state, percent and version that an element shows, from before it is there.
_RECORD = """() => {
  window.seen = [];
  for (const name of ["job-state", "job-snapshot", "job-end", "job-error"]) {
    addEventListener(name, ({ detail }) => seen.push([name, detail.progress_pct ?? detail.message ?? detail]));
  }
}"""


@pytest.fixture
def page(page: Any) -> Any:
    """A page that notes what elements do, and whose errors fail the test."""
    page.add_init_script(f"({_RECORD})()")
    page.set_default_timeout(SOON)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert errors == []


def states(page: Any) -> list[str]:
    """The states of the page's elements, in order."""
    return [detail for name, detail in page.evaluate("seen") if name == "job-state"]


def percents(page: Any) -> list[int]:
    """The percents of the snapshots, in order."""
    return [detail for name, detail in page.evaluate("seen") if name == "job-snapshot"]


def in_state(page: Any, state: str) -> Any:
    """The element, once it is in a state."""
    found = page.locator(f'job-progress[state="{state}"]')
    found.wait_for()
    return found


class TestTheElement:
    def test_it_shows_a_job_to_its_end(self, page: Any, show: Callable[[str], None], server: Server) -> None:
        """Name, percent, stage; a screen reader hears the same; the custom properties and parts reach it."""
        job = server.job()
        show(block("style.html") + block("element.html", JOB=job))
        in_state(page, "running")
        server.complete(job, 0, 1)
        bar = page.get_by_role("progressbar", name="Nightly import")
        page.wait_for_function("document.querySelector('job-progress').snapshot?.progress_pct === 50")
        assert bar.get_attribute("aria-valuenow") == "50"
        assert bar.get_attribute("aria-valuetext") == "50%, Processing chunk 2/4"
        fill = bar.locator("[part=fill]")
        colour = fill.evaluate("(fill) => getComputedStyle(fill).backgroundColor")
        assert [bar.evaluate("(bar) => getComputedStyle(bar).height"), colour] == ["20px", "rgb(102, 51, 153)"]
        server.complete(job, 2, 3)
        server.end(job)
        element = in_state(page, "completed")
        assert element.locator("[part=stage]").inner_text() == "Done"
        assert percents(page) == sorted(percents(page))
        assert [name for name, *_ in page.evaluate("seen")].count("job-end") == 1

    @pytest.mark.parametrize(
        ("status", "state", "word"),
        [(JobStatus.PARTIAL, "partial", "Done in part"), (JobStatus.FAILED, "failed", "Failed")],
    )
    def test_what_failed_is_named(
        self, page: Any, show: Callable[[str], None], server: Server, status: JobStatus, state: str, word: str
    ) -> None:
        """The first few, and how many more; markup in a message stays text."""
        job = server.rows.create(6)
        for index in range(5):
            server.rows.start(job, index)
            server.rows.fail(job, index, error="<img src=x onerror=window.hurt=1>")
        server.complete(job, 5)
        server.end(job, status)
        show(block("element.html", JOB=job))
        element = in_state(page, state)
        lines = element.locator("[part=notice] li").all_inner_texts()
        assert lines[0] == "Chunk 1 (pages 1-25) failed: <img src=x onerror=window.hurt=1>"
        assert lines[-1] == "And 2 more."
        assert element.locator("[part=stage]").inner_text() == word
        assert page.evaluate("window.hurt") is None

    def test_a_retry_is_followed_when_asked(self, page: Any, show: Callable[[str], None], server: Server) -> None:
        """At its end the job was left."""
        job = server.job()
        server.end(job, JobStatus.CANCELLED)
        show(block("element.html", JOB=job))
        element = in_state(page, "cancelled")
        server.rows.reopen(job)
        server.complete(job, 0)
        element.evaluate("(element) => element.follow()")
        page.wait_for_function("document.querySelector('job-progress').snapshot.progress_pct === 25")
        server.rows.start(job, 1)
        server.say(job)
        in_state(page, "running")

    def test_a_job_that_is_not_there_yet_is_waited_for(
        self, page: Any, show: Callable[[str], None], server: Server
    ) -> None:
        """As one that a chain publishes later."""
        job = "job_" + "0" * 24 + "12345678"
        show(block("element.html", JOB=job))
        in_state(page, "connecting")
        page.wait_for_function(
            "document.querySelector('job-progress').shadowRoot.textContent.includes('Waiting for the job')"
        )
        server.create(job)
        server.complete(job, 0)
        in_state(page, "running")
        assert "error" not in states(page)

    def test_many_elements_of_a_matter_share_one_connection(
        self, page: Any, show: Callable[[str], None], server: Server
    ) -> None:
        """More than the six that a browser allows; one that joins late, and one whose job has ended, too."""
        opened: list[str] = []
        page.on("request", lambda request: opened.append(request.url) if request.url.endswith("/events") else None)
        jobs = [server.job() for _ in range(9)]
        server.end(jobs[0], JobStatus.CANCELLED)
        element = '<job-progress job="{}" matter="m"></job-progress>'
        show(block("element.html", JOB=jobs[0]).partition("<job-progress")[0] + "".join(map(element.format, jobs[:8])))
        page.wait_for_function("document.querySelectorAll('job-progress[state=running]').length === 7")
        in_state(page, "cancelled")
        page.evaluate("(html) => document.body.insertAdjacentHTML('beforeend', html)", element.format(jobs[8]))
        page.wait_for_function("document.querySelectorAll('job-progress[state=running]').length === 8")
        for job in jobs[1:]:
            server.end(job)
        page.wait_for_function("document.querySelectorAll('job-progress[state=completed]').length === 8")
        assert [url.rpartition("/api")[2] for url in opened] == ["/matters/m/events"]

    def test_a_stream_that_has_gone_silent_is_opened_again(
        self, page: Any, show: Callable[[str], None], server: Server
    ) -> None:
        """After a minute: a connection may have died without a word. It is the same job, and goes on."""
        page.clock.install()
        job = server.job()
        show(block("element.html", JOB=job))
        in_state(page, "running")
        with page.expect_response(f"**/api/jobs/{job}"), page.expect_response("**/events"):
            page.clock.run_for(61_000)
        server.complete(job, 0)
        page.wait_for_function("document.querySelector('job-progress').snapshot.progress_pct === 25")
        assert states(page) == ["running"]

    def test_offline_is_said_and_got_over(self, page: Any, show: Callable[[str], None], server: Server) -> None:
        """With what is known, and since when."""
        job = server.job()
        show(block("element.html", JOB=job))
        in_state(page, "running")
        page.context.set_offline(True)
        element = in_state(page, "offline")
        assert "Offline. This is what was known at" in element.locator("[part=connection]").inner_text()
        server.complete(job, 0, 1, 2)
        page.context.set_offline(False)
        in_state(page, "running")
        page.wait_for_function("document.querySelector('job-progress').snapshot.progress_pct === 75")


class TestAnotherSite:
    @pytest.fixture
    def visit(self, page: Any, server: Server, shop: Shop) -> Callable[..., None]:
        """``visit(job, token)`` opens the shop's page with the element; ``token()`` is what its server answers."""

        def visited(job: str, token: Callable[[], str | None]) -> None:
            shop.token, shop.asked = token, 0
            shop.pages["/"] = "<!doctype html>" + block("other-site.html", JOB=job, SERVER=server.url)
            page.goto(f"{shop.url}/")

        return visited

    def test_it_survives_a_kill_and_a_restart_of_the_server(
        self, page: Any, server: Server, visit: Callable[..., None]
    ) -> None:
        """The element says so meanwhile, and ends with the truth; the percent never goes back."""
        job = server.job()
        visit(job, partial(TOKENS.for_job, job))
        in_state(page, "running")
        server.complete(job, 0)
        server.process.kill()
        in_state(page, "reconnecting")
        server.rows.start(job, 3)
        server.complete(job, 1, 2)
        server.process.start()
        in_state(page, "running")
        server.complete(job, 3)
        server.end(job)
        in_state(page, "completed")
        assert percents(page) == sorted(percents(page))
        assert percents(page)[-1] == 100
        assert "error" not in states(page)

    def test_a_token_that_expires_is_replaced(
        self, page: Any, server: Server, shop: Shop, visit: Callable[..., None]
    ) -> None:
        """The stream ends, the shop's server is asked, and the job goes on."""
        job = server.job()
        visit(job, lambda: TOKENS.for_job(job, expires=1.5))
        in_state(page, "running")
        page.wait_for_function("seen.filter(([name, state]) => state === 'running').length >= 2")
        assert shop.asked >= 2
        server.complete(job, 0, 1, 2, 3)
        server.end(job)
        in_state(page, "completed")
        assert "error" not in states(page)

    def test_a_foreign_job_s_token_is_refused(self, page: Any, server: Server, visit: Callable[..., None]) -> None:
        """With a sentence; nothing of the job is shown."""
        job = server.job()
        visit(job, partial(TOKENS.for_job, server.job()))
        element = in_state(page, "error")
        assert element.locator("[part=notice]").inner_text() == "This token opens something else."
        assert percents(page) == []

    def test_a_page_whose_server_gives_no_token(self, page: Any, server: Server, visit: Callable[..., None]) -> None:
        """It is not asked for ever."""
        visit(server.job(), lambda: None)
        in_state(page, "error")

    def test_an_origin_that_is_not_allowed_reads_nothing(self, page: Any, server: Server, shop: Shop) -> None:
        """Also with a good token."""
        job = server.job()
        url = f"{server.url}/api/jobs/{job}?token={TOKENS.for_job(job)}"
        page.route("http://127.0.0.2/", lambda route: route.fulfill(body="<title>x</title>", content_type="text/html"))
        page.goto("http://127.0.0.2/")
        assert page.evaluate("(url) => fetch(url).then(() => 'read', () => 'refused')", url) == "refused"
        shop.pages["/"] = "<title>x</title>"
        page.goto(f"{shop.url}/")
        assert page.evaluate("(url) => fetch(url).then(() => 'read', () => 'refused')", url) == "read"


class TestWithoutTheElement:
    def test_the_module(self, page: Any, show: Callable[[str], None], server: Server) -> None:
        """A page that draws by itself."""
        job = server.job()
        show(block("module.html", JOB=job))
        server.complete(job, 0, 1)
        page.wait_for_function("bar.value === 50")
        server.end(job)
        page.wait_for_function("stage.textContent === 'COMPLETED'")

    def test_a_plain_event_source(self, page: Any, show: Callable[[str], None], server: Server) -> None:
        """With ``onmessage``, and with a listener for each name; it does not connect again after the end."""
        job = server.job()
        show(block("onmessage.html", JOB=job))
        server.complete(job, 0)
        page.wait_for_function("percent.value === '25'")
        server.end(job)
        page.wait_for_function("source.readyState === EventSource.CLOSED")
        show(block("named.html", JOB=job))
        page.wait_for_function("ended.value === 'COMPLETED'")

    def test_celery_progress_s_own_client(self, page: Any, show: Callable[[str], None], server: Server) -> None:
        """Its published JavaScript, as its README has it: waiting, at work, and the end with the result."""
        spec = importlib.util.find_spec("celery_progress")
        assert spec is not None and spec.origin is not None
        script = Path(spec.origin).with_name("static") / "celery_progress" / "celery_progress.js"
        page.route("**/celery_progress.js", lambda route: route.fulfill(path=script))
        job = "job_" + "1" * 24 + "12345678"
        show(block("celery-progress.html", JOB=job, TOKEN=TOKENS.for_job(job)))
        message = page.locator("#progress-bar-message")
        page.wait_for_function(
            "document.querySelector('#progress-bar-message').textContent.startsWith('Waiting for task')"
        )
        server.create(job)
        server.complete(job, 0)
        message.get_by_text("25 of 100 processed. Processing chunk 1/4").wait_for()
        server.complete(job, 1, 2, 3)
        server.end(job)
        message.get_by_text("Success!").wait_for()
        failed = server.job()
        server.end(failed, JobStatus.FAILED)
        show(block("celery-progress.html", JOB=failed, TOKEN=TOKENS.for_job(failed)))
        message.get_by_text("Uh-Oh, something went wrong!").wait_for()

    def test_the_react_hook(self, page: Any, show: Callable[[str], None], server: Server, react: Path) -> None:
        """In React 18 itself: each snapshot is drawn, and another job is followed in its place."""
        job, other = server.job(), server.job()
        for name in ("react", "react-dom"):
            file = next((react / name).glob(f"umd/{name}.production.min.js"))
            page.route(f"**/{name}.js", partial(_send, file))
        hook = block("useJob.js")
        page.route("**/useJob.js", lambda route: route.fulfill(body=hook, content_type="text/javascript"))
        shim = "export const { useEffect, useState } = React;"
        page.route("**/react-module.js", lambda route: route.fulfill(body=shim, content_type="text/javascript"))
        show(
            """<script src="/react.js"></script><script src="/react-dom.js"></script><div id="root"></div>
            <script type="importmap">{"imports": {"react": "/react-module.js"}}</script>
            <script type="module">
              import { useJob } from "/useJob.js";
              const { createElement, StrictMode } = React;
              function Bar({ job }) {
                const { snapshot, state } = useJob(`/api/jobs/${job}/events`);
                return createElement("p", null, `${job} ${snapshot?.progress_pct} ${state}`);
              }
              const root = ReactDOM.createRoot(document.getElementById("root"));
              window.draw = (job) => root.render(createElement(StrictMode, null, job && createElement(Bar, { job })));
            </script>"""
        )
        page.wait_for_function("typeof window.draw === 'function'")
        page.evaluate("(job) => draw(job)", job)
        page.get_by_text(f"{job} 0 live").wait_for()
        server.complete(job, 0)
        page.get_by_text(f"{job} 25 live").wait_for()
        server.complete(other, 0, 1)
        page.evaluate("(job) => draw(job)", other)
        page.get_by_text(f"{other} 50 live").wait_for()
        page.evaluate("draw(null)")
        page.wait_for_function("document.getElementById('root').textContent === ''")


def _send(file: Path, route: Any) -> None:
    route.fulfill(path=file)


@pytest.fixture(scope="module")
def react(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """React 18 and ReactDOM, which come from npm: PyPI has no current one."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("React comes from npm, which is not here: apt-get install npm")
    folder = tmp_path_factory.mktemp("react")
    argv = [npm, "install", "--silent", "--no-audit", "--no-fund", "react@18.3.1", "react-dom@18.3.1"]
    done = None
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    if done is None or done.returncode != 0:
        pytest.skip(f"npm could not install React: {done.stderr.strip() if done else 'it took too long'}")
    return folder / "node_modules"
