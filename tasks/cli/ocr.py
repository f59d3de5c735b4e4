"""``python -m tasks ocr IN.pdf OUT.pdf``: the whole pipeline for one file, on a stack that goes when it is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from tasks import exit_codes
from tasks.embedded.runner import StartFailed
from tasks.embedded.servers import ServerFailed, ServerNotFound, die_with_parent
from tasks.embedded.stack import Stack, plan_ephemeral, run
from tasks.pdf.preflight import Refused, check
from tasks.settings import ServiceSettings

_INTERRUPTED_SECONDS = 5.0


def ocr(source: Path, out: Path, *, text: Path | None, workers: int, chunk_pages: int) -> int:
    """Make ``source`` searchable. Outputs appear whole or not at all. Returns an exit code of ``tasks.exit_codes``."""
    outputs = {"--out": out} | ({"--text": text} if text is not None else {})
    if complaint := _complaint(source, outputs):
        return _fail(complaint, exit_codes.USAGE)
    # Checked again when it is submitted; here, so that what is refused is refused before anything is started.
    settings = ServiceSettings.read()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            check(source, scratch=Path(scratch), dpi=settings.ocr_dpi, max_bytes=settings.max_upload_bytes)
    except Refused as refusal:
        return _fail(refusal.message, exit_codes.REFUSED)
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="ocr-", ignore_cleanup_errors=True) as folder:
        try:
            return _run(source, outputs, Path(folder), workers, chunk_pages)
        except (StartFailed, ServerFailed, ServerNotFound) as error:
            return _fail(str(error), exit_codes.FAILED)
        except KeyboardInterrupt:
            # Who worked on the job has been stopped, and all that it made goes with the folder.
            return _fail("Cancelled; nothing was written.", exit_codes.INTERRUPTED)


def _run(source: Path, outputs: Mapping[str, Path], folder: Path, workers: int, chunk_pages: int) -> int:
    scratch = folder / "tmp"
    scratch.mkdir()
    stack = plan_ephemeral(folder, workers=workers, settings={"TMPDIR": str(scratch)})
    arguments = [str(source), "--matter", "local", "--chunk-pages", str(chunk_pages)]
    for option, path in outputs.items():
        arguments += [option, str(path)]
    with (folder / "log").open("w") as log, run(stack, lambda name, line: print(f"{name}: {line}", file=log)) as runner:
        threading.Thread(target=runner.supervise, daemon=True).start()
        code = _submit(arguments, stack)
        # Nothing is at work any more, and nothing of it will be needed.
        runner.hurry()
    return code


def _submit(arguments: list[str], stack: Stack) -> int:
    """Follow the job in a process of its own: it has ended, with its connections, before the servers do."""
    client = subprocess.Popen(
        [sys.executable, "-m", "tasks", "submit", *arguments],
        env={**os.environ, **stack.environment},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent(),
    )
    try:
        return client.wait()
    except KeyboardInterrupt:
        # So that it gives the terminal back as it was.
        client.send_signal(signal.SIGINT)
        raise
    finally:
        try:
            client.wait(_INTERRUPTED_SECONDS)
        except subprocess.TimeoutExpired:
            client.kill()
            client.wait()


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _complaint(source: Path, outputs: Mapping[str, Path]) -> str | None:
    """What is wrong with the paths; None when nothing is."""
    if not source.is_file():
        return f"{source} is not a file."
    if not os.access(source, os.R_OK):
        return f"{source} cannot be read."
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        return "The PDF and the text cannot be the same file."
    for path in outputs.values():
        if path.is_dir():
            return f"{path} is a directory."
        folder = path.absolute().parent
        if not folder.is_dir():
            return f"{folder} is not a directory."
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"{folder} cannot be written to."
    return None


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
