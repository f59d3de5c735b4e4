"""Which services run here: `up` leaves its address and a key in its data directory, for this user's commands alone.

``running.json`` is there while the service is ready. Where its process died without removing it, nobody believes it.
A second file, in the user's own state folder, names the data directory, so that a command finds it from elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from celery_progress_ext.private_files import PrivateFiles
from tasks.secret_files import write_private

_FILE = "running.json"
_WHAT_TO_DO = """Start one:           python -m tasks up
or name its folder:  --data-dir DIR
or its address:      --url URL --key KEY
or read a file without one:
                     python -m tasks ocr IN.pdf OUT.pdf"""


class NotRunning(Exception):
    """There is no service to hand a document to; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A service that is up.

    :ivar key: an API key for every matter, good for as long as it runs.
    :ivar pid: of `up`.
    """

    url: str
    key: str
    pid: int

    @property
    def alive(self) -> bool:
        """Whether its process is there. Another may have taken its number; it would not know the key."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


@contextlib.contextmanager
def announced(data_dir: Path, running: Running) -> Iterator[None]:
    """Let commands find the service for as long as the context lasts."""
    path, pointer = data_dir / _FILE, _pointers() / str(running.pid)
    write_private(path, json.dumps(asdict(running)))
    # Without a home a command finds it in the data directory all the same.
    with contextlib.suppress(OSError):
        PrivateFiles().make_folder(pointer.parent)
        write_private(pointer, str(data_dir.resolve()))
    try:
        yield
    finally:
        for each in (path, pointer):
            with contextlib.suppress(OSError):
                each.unlink(missing_ok=True)


def find(data_dir: Path | None) -> Running:
    """The service of this data directory; without one, that of ``var``, or the only one that this user runs.

    :raises NotRunning: where there is none, or more than one.
    """
    folder = data_dir or Path("var")
    found, stale = _read(folder)
    if found is not None:
        return found
    if data_dir is None:
        others = _others()
        if len(others) > 1:
            choices = ", ".join(f"--data-dir {each}" for each in sorted(others))
            raise NotRunning(f"More than one service runs here; choose one: {choices}.")
        if others:
            return next(iter(others.values()))
    gone = f"\nThe one that ran in {folder} (process {stale.pid}) ended without a word." if stale else ""
    raise NotRunning(f"No service runs {f'in {folder}' if data_dir else 'here'}.{gone}\n{_WHAT_TO_DO}")


def _others() -> dict[Path, Running]:
    """By data directory, the services that this user runs. What is left of others is removed."""
    found = {}
    with contextlib.suppress(OSError):
        for pointer in _pointers().iterdir():
            folder = Path(pointer.read_text().strip())
            running, _ = _read(folder)
            if running is not None:
                found[folder] = running
            else:
                pointer.unlink(missing_ok=True)
    return found


def _read(folder: Path) -> tuple[Running | None, Running | None]:
    """The service of a folder, and the one whose process is gone."""
    path = folder / _FILE
    try:
        # A key of somebody else's would be sent documents of ours.
        if path.stat().st_uid != os.geteuid():
            return None, None
        running = Running(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None, None
    return (running, None) if running.alive else (None, running)


def _pointers() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "celery-progress-ext" / "running"
