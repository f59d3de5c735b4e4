"""How everything starts, stays up and stops."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_progress_ext.storage import Database
from celery_progress_ext.storage.workers import roster
from tasks.embedded.runner import Runner, Service, StartFailed
from tasks.embedded.servers import LOOPBACK, RedisServer, ServerNotFound, find_redis_server, free_port
from tasks.embedded.stack import AlreadyRunning, PortTaken, held, plan_up
from tasks.lanes import queues
from tasks.sample import make_sample
from tests.support.processes import ROOT, TestProcess
from tests.support.waiting import wait_for

#: A service that says when it is up, and when it was told to stop.
_POLITE = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
_STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.05; done"


class Said(list[tuple[str, str]]):
    """What a runner and its services said."""

    def __call__(self, name: str, line: str) -> None:
        self.append((name, line))


@pytest.fixture
def said() -> Said:
    """Collects the lines."""
    return Said()


def _service(name: str, script: str = _POLITE, **options: object) -> Service:
    return Service(name=name, argv=["/bin/sh", "-c", script], **{"ready_line": "up", **options})  # type: ignore[arg-type]


# -- the runner


def test_each_starts_when_the_one_before_is_ready_and_stops_before_it(said: Said) -> None:
    """Started a, b; stopped b, a."""
    with Runner([_service("a"), _service("b")], said):
        pass
    assert [each for each in said if each[0] != Runner.name] == [("a", "up"), ("b", "up"), ("b", "bye"), ("a", "bye")]


def test_a_stop_is_for_the_leader_alone(said: Said) -> None:
    """A worker's children must live until the worker has let them finish."""
    child = f"/bin/sh -c \"trap 'echo child hit' TERM; {_POLITE.partition(';')[2]}\" & "
    with Runner([_service("a", child + _POLITE)], said):
        pass
    assert ("a", "child hit") not in said


def test_what_dies_is_started_again_and_said(said: Said) -> None:
    """With the reason, and again when it is back."""
    with Runner([_service("a", f"echo $$; {_POLITE}")], said) as runner:
        os.kill(int(said[0][1]), signal.SIGKILL)
        runner.supervise(until=lambda: ("up", "a is back") in said)
    assert ("up", "a ended with SIGKILL; it starts again in 0.5 s") in said


def test_what_does_not_start_is_told_with_its_last_lines(said: Said) -> None:
    """And what was started before it is stopped."""
    with pytest.raises(StartFailed, match=r"(?s)b ended with exit code 3.*no such thing"):
        Runner([_service("a"), _service("b", "echo no such thing; exit 3")], said).__enter__()
    assert ("up", "stopping a") in said


def test_what_is_not_ready_in_time_is_told(said: Said) -> None:
    """A service that hangs at its start does not hang everything."""
    with pytest.raises(StartFailed, match="not ready within"):
        Runner([_service("a", ready_line="never said", start_seconds=0.3)], said).__enter__()


def test_asked_twice_it_kills(said: Said) -> None:
    """Ctrl-C, Ctrl-C."""
    runner = Runner([_service("a", _STUBBORN, stop=((signal.SIGTERM, 60.0),))], said)
    with runner:
        runner.ask_to_stop()
        runner.ask_to_stop()
    assert ("up", "killing a") in said


def test_a_job_runs_to_its_end_before_the_next_starts(said: Said) -> None:
    """As the migration does."""
    with Runner([_service("job", "sleep 0.2; echo done", once=True, ready_line=None), _service("b")], said):
        pass
    assert said.index(("job", "done")) < said.index(("b", "up"))


def test_a_job_that_fails_stops_the_start(said: Said) -> None:
    """Nothing runs on a schema that could not be made."""
    with pytest.raises(StartFailed, match="job ended with exit code 1"):
        Runner([_service("job", "exit 1", once=True, ready_line=None)], said).__enter__()


# -- servers


def test_redis_keeps_its_queue_over_a_kill(own_redis: RedisServer) -> None:
    """What is in the append-only file is there again."""
    with redis.Redis.from_url(own_redis.url, socket_timeout=5) as client:
        client.rpush("celery", "a message")
        wait_for(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0, what="written")
    own_redis.kill()
    own_redis.restart()
    with redis.Redis.from_url(own_redis.url, socket_timeout=5) as client:
        assert client.lrange("celery", 0, -1) == [b"a message"]


def test_redis_lets_nobody_in_without_its_password(redis_server: RedisServer) -> None:
    """Every user of the machine can reach loopback."""
    with (
        redis.Redis(host=LOOPBACK, port=redis_server.port, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_a_server_can_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_SERVER_BINARY wins over what else is there."""
    monkeypatch.setenv("REDIS_SERVER_BINARY", sys.executable)
    assert find_redis_server() == Path(sys.executable)


def test_a_wrong_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not silently replaced by another server."""
    monkeypatch.setenv("REDIS_SERVER_BINARY", "/no/such/server")
    with pytest.raises(ServerNotFound, match="/no/such/server"):
        find_redis_server()


# -- the plan


def test_what_the_environment_says_wins(tmp_path: Path) -> None:
    """With a broker of one's own, no embedded server is started."""
    given = {"CELERY_BROKER_URL": "redis://elsewhere/0", "PROGRESS_DATABASE_URL": "postgresql://elsewhere/progress"}
    stack = plan_up(tmp_path, port=0, workers=2, environ=given)
    assert "redis" not in [service.name for service in stack.services]
    assert given.items() <= stack.environment.items()
    assert stack.environment["CELERY_RESULT_BACKEND"] == "redis://elsewhere/0"


def test_the_secret_key_is_kept_and_private(tmp_path: Path) -> None:
    """Sessions outlive a restart, and nobody else reads the key."""
    first, second = (plan_up(tmp_path, port=0, workers=1, environ={}) for _ in range(2))
    assert first.environment["PROGRESS_SECRET_KEY"] == second.environment["PROGRESS_SECRET_KEY"]
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600
    assert first.environment["PROGRESS_START_TOKEN"] != second.environment["PROGRESS_START_TOKEN"]


def test_a_data_directory_is_for_its_owner(tmp_path: Path) -> None:
    """Made so, and tightened where it was not."""
    (tmp_path / "var" / "redis").mkdir(parents=True)
    (tmp_path / "var" / "progress.db").touch(0o644)
    (tmp_path / "var").chmod(0o755)
    with held(tmp_path / "var"):
        loose = [
            path.name for path in ((tmp_path / "var"), *(tmp_path / "var").rglob("*")) if path.stat().st_mode & 0o077
        ]
    assert loose == []


def test_a_data_directory_serves_one_instance(tmp_path: Path) -> None:
    """Two would run two beats and write one append-only file."""
    with held(tmp_path):
        with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"), held(tmp_path):
            pass
        # Who was refused has not loosened the lock.
        with pytest.raises(AlreadyRunning), held(tmp_path):
            pass
    with held(tmp_path):
        pass


def test_a_port_that_is_taken_is_told(tmp_path: Path, redis_server: RedisServer) -> None:
    """Before anything is started."""
    with pytest.raises(PortTaken, match=str(redis_server.port)):
        plan_up(tmp_path, port=redis_server.port, workers=1, environ={})


# -- `python -m tasks up`

_SERVICE_SETTINGS = ("CELERY_", "PROGRESS_", "DOCUMENTS_", "OCR_", "FLOWER_", "PORT", "WEB_CONCURRENCY")


def _clean_environment(process: TestProcess) -> TestProcess:
    """None of the settings of whoever runs the tests."""
    process.env = {name: value for name, value in process.env.items() if not name.startswith(_SERVICE_SETTINGS)}
    return process


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[[], TestProcess]]:
    """Starts the whole service in a data directory of the test's own."""
    started = []

    def start() -> TestProcess:
        argv = [
            sys.executable,
            "-m",
            "tasks",
            "up",
            "--port",
            "0",
            "--workers",
            "1",
            "--data-dir",
            str(tmp_path / "var"),
        ]
        env = {"XDG_STATE_HOME": str(tmp_path / "state")}
        process = TestProcess(argv, log=tmp_path / "up.log", ready_line="web: http://", env=env)
        started.append(_clean_environment(process))
        return process.start()

    yield start
    for process in started:
        if process.alive:
            process.stop(60)
        process.kill()


def _family(process: TestProcess) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def _runs(child: psutil.Process) -> bool:
    try:
        return bool(child.is_running() and child.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _named(process: TestProcess, word: str) -> psutil.Process:
    return next(child for child in process.children() if word in child.cmdline())


def test_up_serves_restarts_and_stops_in_order(up: Callable[[], TestProcess], tmp_path: Path) -> None:
    """A page at the printed URL; a killed worker comes back; SIGTERM ends it with 0, Redis last."""
    process = up()
    (url,) = re.findall(r"^web: (http://127\.0\.0\.1:\d+)/\?token=\S+$", process.log, re.MULTILINE)
    with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
        assert answer.status == 200
    database = Database(f"sqlite:///{tmp_path / 'var' / 'progress.db'}")
    names = {queue.name for queue in queues("celery", spread=4)}
    wait_for(lambda: [names] == [entry.queues for entry in roster(database).alive], what="a worker of every queue")
    database.dispose()

    _named(process, "worker").kill()
    process.wait_for_log("worker ended with SIGKILL")
    process.wait_for_log("worker is back")

    family = _family(process)
    assert process.stop(60) == 0
    log = (tmp_path / "var" / "logs" / "up.log").read_text()
    stopped = re.findall(r" stopping (\w+)$", log, re.MULTILINE)
    assert stopped[-4:] == ["web", "beat", "worker", "redis"]
    assert "killing" not in log
    assert not [child for child in family if child.is_running()]


def _submit(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tasks", "submit", *map(str, arguments)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(_SERVICE_SETTINGS)}
    env |= {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder.parent / "state")}
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=100)


def test_submit_finds_the_service_that_runs(up: Callable[[], TestProcess], tmp_path: Path) -> None:
    """From any folder, in which it leaves only what it was asked for; what the processes log is in files."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    make_sample(folder / "scan.pdf", pages=2, dpi=150)
    process = up()
    assert process.log.strip().splitlines()[-1].startswith("web: ")

    done = _submit(folder, "scan.pdf", "--watch", "--out", "out.pdf")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Completed: 2 of 2 pages in ")
    assert {path.name for path in folder.iterdir()} == {"scan.pdf", "out.pdf"}

    (folder / "letter.pdf").write_text("Dear all,")
    refused = _submit(folder, "letter.pdf", "--watch")
    assert (refused.returncode, refused.stderr[:22]) == (3, "This is not a PDF file")
    assert _submit(folder, "scan.pdf", "--dpi", "9").returncode == 2

    (address,) = re.findall(r"^web: (http://127\.0\.0\.1:\d+)/", process.log, re.MULTILINE)
    stranger = _submit(folder, "scan.pdf", "--url", address, "--key", "not-a-key-of-it", "--watch")
    assert stranger.returncode == 1
    assert "does not know the key" in stranger.stderr

    assert "Traceback" not in process.log + done.stdout
    assert process.log.strip().splitlines()[-1].startswith("web: ")
    assert process.stop(60) == 0
    alone = _submit(folder, "scan.pdf", "--watch")
    assert alone.returncode == 1
    assert alone.stderr.startswith("No service runs here.")
    assert "python -m tasks up" in alone.stderr
    assert {path.name for path in folder.iterdir()} == {"scan.pdf", "out.pdf", "letter.pdf"}


def test_nothing_outlives_an_up_that_is_killed(up: Callable[[], TestProcess]) -> None:
    """``kill -9`` of the runner alone: the kernel tells the rest."""
    process = up()
    family = _family(process)
    process.signal(signal.SIGKILL)
    process.wait()
    wait_for(
        lambda: not [child for child in family if _runs(child)],
        40,
        what="every child gone",
    )


# -- `python -m tasks ocr`


def _ocr(*arguments: object, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tasks", "ocr", *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def test_ocr_tells_each_step_and_writes_both_files(tmp_path: Path) -> None:
    """Each count once and in order, the merge, a summary; exit 0."""
    source, out, text = tmp_path / "scan.pdf", tmp_path / "out.pdf", tmp_path / "out.txt"
    make_sample(source, pages=3, dpi=150)
    done = _ocr(source, out, "--text", text, "--workers", 2, "--chunk-pages", 1)
    assert done.returncode == 0, done.stderr
    *lines, summary = done.stdout.splitlines()
    assert lines[:2] == ["Checking", "Starting redis (queue and live stream)"]
    first = lines.index("Processing chunk 0/3")
    assert lines[first:] == [*(f"Processing chunk {number}/3" for number in range(4)), "Merging OCR results"]
    assert summary.startswith("Completed: 3 of 3 pages in ")
    assert out.read_bytes().startswith(b"%PDF")
    assert "Page 3 of the sample record" in text.read_text()
    assert done.stderr == ""


def test_ocr_reads_stdin_and_writes_stdout(tmp_path: Path) -> None:
    """The file alone is on stdout, the progress on stderr; options reach the pages."""
    source, text = tmp_path / "scan.pdf", tmp_path / "out.txt"
    make_sample(source, pages=3, dpi=150)
    argv = [sys.executable, "-m", "tasks", "ocr", "-", "-", "--sidecar", str(text), "--pages", "2", "--dpi", "150"]
    done = subprocess.run(argv, cwd=ROOT, input=source.read_bytes(), capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"%PDF")
    assert done.stdout.rstrip().endswith(b"%%EOF")
    assert b"Completed: 3 of 3 pages in " in done.stderr
    assert [("sample record" in page) for page in text.read_text().split("\f")] == [False, True, False]


def test_the_version_is_told() -> None:
    """As every command line tells it."""
    done = subprocess.run([sys.executable, "-m", "tasks", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", done.stdout)


def test_ocr_refuses_what_is_not_a_pdf(tmp_path: Path) -> None:
    """Exit 3, with the sentence on stderr and before anything is started."""
    source = tmp_path / "letter.pdf"
    source.write_text("Dear all,")
    done = _ocr(source, tmp_path / "out.pdf", timeout=20)
    assert (done.returncode, done.stderr.strip()) == (3, "This is not a PDF file, nor a TIFF, JPEG or PNG image.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.pdf", "out.pdf"], "is not a file"),
        (["scan.pdf", "no/such/folder/out.pdf"], "is not a directory"),
        (["scan.pdf", "out.pdf", "--text", "out.pdf"], "cannot be the same file"),
        (["scan.pdf", "."], "is a directory"),
        (["scan.pdf"], "required"),
        (["scan.pdf", "out.pdf", "--workers", "0"], "whole number from 1 to 1000, not '0'"),
        (["scan.pdf", "out.pdf", "--mode", "hurry"], "mode must be one of skip, redo, force, not 'hurry'."),
        (["scan.pdf", "out.pdf", "-l", "lat"], "Install the Debian package tesseract-ocr-lat "),
        (["scan.pdf", "out.pdf", "--pages", "0"], "pages must be numbers and ranges"),
    ],
)
def test_wrong_usage_is_exit_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Paths and numbers are looked at first."""
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.7")
    done = _ocr(*(tmp_path / each if ".pdf" in each or each == "." else each for each in arguments), timeout=20)
    assert done.returncode == 2
    assert words in done.stderr


def test_an_interrupted_ocr_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C: exit 130, no output, no temporary files, no process."""
    source, out, scratch = tmp_path / "scan.pdf", tmp_path / "out.pdf", tmp_path / "tmp"
    scratch.mkdir()
    make_sample(source, pages=6, dpi=150)
    argv = [sys.executable, "-m", "tasks", "ocr", str(source), str(out), "--workers", "1", "--chunk-pages", "3"]
    process = TestProcess(
        argv, log=tmp_path / "ocr.log", env={"TMPDIR": str(scratch)}, ready_line="Processing chunk 0/2"
    )
    process.start()
    family = _family(process)
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    assert "Cancelled; nothing was written." in process.log
    assert not out.exists()
    assert list(scratch.iterdir()) == []
    wait_for(lambda: not [child for child in family if child.is_running()], what="every child gone")


def test_a_free_port_is_free() -> None:
    """It can be bound."""
    with RedisServer(port=free_port()) as server:
        assert server.answers()
