"""The Celery project of the chord tests. The worker makes it from its environment, the test from the same mapping."""

from __future__ import annotations

import gc
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject
from kombu.transport import redis

from celery_progress_ext import CeleryProgress, tracked_chord
from tests.support import fault_points
from tests.support.sql import execute

#: Short enough that a fault is healed within a test, long enough for a loaded machine.
LEASE, TICK = 2.0, 0.5


def make_app(environ: Mapping[str, str]) -> Celery:
    """An app with tasks that do what their arguments say, on the servers that ``environ`` names.

    ``CHORD_APP_CONF`` in it is JSON of further settings.
    """
    app = Celery(
        "chords",
        broker=environ["CELERY_BROKER_URL"],
        backend=environ["CELERY_RESULT_BACKEND"],
        set_as_current=False,
    )
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"visibility_timeout": 3600},
        progress_database_url=environ["PROGRESS_DATABASE_URL"],
        progress_lease_seconds=LEASE,
        progress_tick_seconds=TICK,
    )
    app.conf.update(json.loads(environ.get("CHORD_APP_CONF", "{}")))
    if not hasattr(redis.Channel, "unacked_restore_throttle"):
        # kombu before 5.7 looks every 100 s for messages that were not acknowledged, and has no option for it.
        redis.QoS.restore_visible.__defaults__ = (0, 10, 1)
    fault_points.install(app)
    progress = CeleryProgress(app)

    @app.task(bind=True, name="work", shared=False)  # type: ignore[untyped-decorator]
    def work(self: Any, number: int, pages: int = 1, seconds: float = 0.0, do: str = "", once: str = "") -> int:
        """``pages`` pages in ``seconds``, then ``do`` something; with ``once`` (a path) only the first time."""
        for page in range(pages):
            time.sleep(seconds / pages)
            progress.report(self, done=page + 1, total=pages)
        if do and _first_time(once):
            _DEEDS[do](self)
        return number

    @app.task(bind=True, name="merge", shared=False)  # type: ignore[untyped-decorator]
    def merge(
        self: Any, results: list[int], path: str, seconds: float = 0.0, do: str = "", once: str = "", began: str = ""
    ) -> int:
        """Take effect: a line in the file at ``path``. ``began`` is a path to make first."""
        if began:
            Path(began).touch()
        time.sleep(seconds)
        if do and _first_time(once):
            _DEEDS[do](self)
        with Path(path).open("a") as out:
            out.write(f"{self.request.id} {sorted(results)}\n")
        return sum(results)

    @app.task(bind=True, name="merge_in_transaction", shared=False)  # type: ignore[untyped-decorator]
    def merge_in_transaction(self: Any, results: list[int], die: str, once: str) -> int:
        """Take effect in the database, together with the end of the job; die ``before`` or ``after`` the commit."""
        with progress.database.engine.connect() as connection:
            with connection.begin():
                execute(connection, "INSERT INTO effects VALUES (1)")
                progress.finish(self, result=sum(results), connection=connection)
                if die == "before" and _first_time(once):
                    _die(self)
            if die == "after" and _first_time(once):
                _die(self)
        return sum(results)

    @app.task(name="note", shared=False)  # type: ignore[untyped-decorator]
    def note(path: str, line: str = "noted") -> str:
        """Add a line to a file."""
        with Path(path).open("a") as out:
            out.write(f"{line}\n")
        return "replaced"

    @app.task(bind=True, name="replace", shared=False)  # type: ignore[untyped-decorator]
    def replace(self: Any, results: Any, path: str) -> None:
        """A body, or a chunk, that another task goes on with."""
        note(path, "replacing")
        raise self.replace(app.signature("note", args=(path, "replacement"), immutable=True))

    @app.task(bind=True, name="replace_by_job", shared=False)  # type: ignore[untyped-decorator]
    def replace_by_job(self: Any, path: str) -> None:
        """A chunk that would have a job of its own go on with it."""
        header, body = [app.signature("work", args=(1,))], app.signature("merge", args=(path,))
        raise self.replace(tracked_chord(header, body, matter_id="m", document_id="inner", app=app))

    @app.task(name="frozen", shared=False)  # type: ignore[untyped-decorator]
    def frozen() -> tuple[int, int]:
        """This process, and how many objects it has from before the garbage collector was told to leave them."""
        return os.getpid(), gc.get_freeze_count()

    @app.task(name="add", shared=False)  # type: ignore[untyped-decorator]
    def add(number: int, other: int = 0) -> int:
        """A task that is not tracked."""
        return number + other

    return app


def _first_time(once: str) -> bool:
    if not once:
        return True
    try:
        Path(once).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _fail(task: Any) -> None:
    raise ValueError("boom")


def _die(task: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_all(task: Any) -> None:
    """The whole worker: every process of its group."""
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _hang(task: Any) -> None:
    """Until somebody stops it."""
    while True:
        time.sleep(1)


def _ignore(task: Any) -> None:
    raise Ignore


def _reject(task: Any) -> None:
    raise Reject("no", requeue=False)


def _requeue(task: Any) -> None:
    raise Reject("later", requeue=True)


def _replace(task: Any) -> None:
    raise task.replace(task.app.signature("add", args=(task.request.args[0],)))


def _retry(task: Any) -> None:
    raise task.retry(exc=OSError("the store is away"), countdown=0.1)


_DEEDS = {
    "fail": _fail,
    "die": _die,
    "die_all": _die_all,
    "hang": _hang,
    "ignore": _ignore,
    "reject": _reject,
    "requeue": _requeue,
    "replace": _replace,
    "retry": _retry,
}

if "CELERY_BROKER_URL" in os.environ:
    app = make_app(os.environ)
