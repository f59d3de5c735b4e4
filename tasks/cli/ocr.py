"""``python -m tasks ocr IN.pdf OUT.pdf``: the whole pipeline for one file, on a stack that goes when it is done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from celery_progress_ext.jobs import JobSnapshot
from celery_progress_ext.terminal import Display, display_for
from celery_progress_ext.wording import printable
from tasks import exit_codes
from tasks.cli.submit import summary
from tasks.embedded.runner import Service, StartFailed
from tasks.embedded.servers import ServerFailed, ServerNotFound, die_with_parent
from tasks.embedded.stack import Stack, plan_ephemeral, run
from tasks.options import InvalidOption, OcrOptions
from tasks.pdf.preflight import Refused, check
from tasks.settings import ServiceSettings

_INTERRUPTED_SECONDS = 5.0


def ocr(
    source: Path,
    out: Path,
    *,
    text: Path | None,
    workers: int,
    options: Mapping[str, str | None],
    verbose: bool = False,
) -> int:
    """Make ``source`` searchable. Outputs appear whole or not at all. Returns an exit code of ``tasks.exit_codes``.

    :param source: a file, or ``-`` for stdin; ``out`` and ``text`` likewise for stdout.
    :param options: by the names in ``tasks.options.OPTIONS``.
    :param verbose: print what each process logs, too.
    """
    outputs = {"--out": out} | ({"--text": text} if text is not None else {})
    if complaint := _complaint(source, outputs):
        return _fail(complaint, exit_codes.USAGE)
    settings = ServiceSettings.read()
    try:
        chosen = OcrOptions.parse(options, settings)
    except InvalidOption as error:
        return _fail(error.message, exit_codes.USAGE)
    signal.signal(signal.SIGTERM, _interrupt)
    title = "stdin" if _is_pipe(source) else source.name
    # Where a file goes to stdout, nothing else does.
    stream = sys.stderr if any(map(_is_pipe, outputs.values())) else sys.stdout
    with tempfile.TemporaryDirectory(prefix="ocr-", ignore_cleanup_errors=True) as folder:
        files = {name: Path(folder) / name if _is_pipe(path) else path for name, path in outputs.items()}
        try:
            with display_for(stream, title=title) as display:
                display.step("Checking")
                local = _local(source, Path(folder), settings.max_upload_bytes)
                # Checked again when it is submitted; here, so that what is refused is refused before anything is
                # started.
                with tempfile.TemporaryDirectory() as scratch:
                    found = check(local, scratch=Path(scratch), dpi=chosen.dpi, max_bytes=settings.max_upload_bytes)
                    chosen.check_pages(found.pages)
                snapshot = _run(local, files, Path(folder), workers, options, display, verbose=verbose)
            for name, path in files.items():
                if path != outputs[name] and path.is_file():
                    _to_stdout(path)
        except Refused as refusal:
            return _fail(refusal.message, exit_codes.REFUSED)
        except InvalidOption as error:
            return _fail(error.message, exit_codes.USAGE)
        except (StartFailed, ServerFailed, ServerNotFound, _Failed) as error:
            return _fail(str(error), exit_codes.FAILED)
        except BrokenPipeError:
            # Whoever read stdout has gone; Python would say so once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _fail("Nobody reads stdout any more; it was not written to the end.", exit_codes.FAILED)
        except KeyboardInterrupt:
            # Who worked on the job has been stopped, and all that it made goes with the folder.
            return _fail("Cancelled; nothing was written.", exit_codes.INTERRUPTED)
    said = summary(snapshot, [path for path in outputs.values() if not _is_pipe(path)])
    print(printable(said), file=stream, flush=True)
    return exit_codes.BY_STATUS[snapshot.status]


class _Failed(RuntimeError):
    """The job could not be followed to its end; the message says why."""


def _is_pipe(path: Path) -> bool:
    return str(path) == "-"


def _local(source: Path, folder: Path, max_bytes: int) -> Path:
    """The source as a file. What is larger than may be is not read to its end."""
    if not _is_pipe(source):
        return source
    path = folder / "stdin.pdf"
    with path.open("wb") as file:
        while file.tell() <= max_bytes and (piece := sys.stdin.buffer.read(1 << 20)):
            file.write(piece)
    return path


def _to_stdout(path: Path) -> None:
    with path.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _run(
    source: Path,
    outputs: Mapping[str, Path],
    folder: Path,
    workers: int,
    options: Mapping[str, str | None],
    display: Display,
    *,
    verbose: bool,
) -> JobSnapshot:
    """Start everything, follow the job, stop everything; the answer is how it ended."""
    scratch = folder / "tmp"
    scratch.mkdir()
    stack = plan_ephemeral(folder, workers=workers, settings={"TMPDIR": str(scratch)})
    arguments = [str(source), "--matter", "local", "--json"]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        arguments += [flag] if name == "rotate_pages" else [f"{flag}={value}"]
    for option, path in outputs.items():
        arguments += [option, str(path)]

    def say(name: str, line: str) -> None:
        if verbose:
            display.log(f"{name}: {line}")

    def on_start(service: Service) -> None:
        display.step(f"Starting {service.name} ({service.purpose})")

    with run(stack, say, on_start) as runner:
        threading.Thread(target=runner.supervise, daemon=True).start()
        display.step("Handing the document in")
        snapshot = _follow(arguments, stack, display)
        # Nothing is at work any more, and nothing of it will be needed.
        runner.hurry()
    return snapshot


def _follow(arguments: list[str], stack: Stack, display: Display) -> JobSnapshot:
    """Follow the job in a process of its own: it has ended, with its connections, before the servers do."""
    client = subprocess.Popen(
        [sys.executable, "-m", "tasks", "submit", *arguments],
        env={**os.environ, **stack.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent(),
    )
    complaints: list[str] = []
    assert client.stdout is not None and client.stderr is not None
    reader = threading.Thread(target=complaints.extend, args=(client.stderr,), daemon=True)
    reader.start()
    snapshot = None
    try:
        for line in client.stdout:
            snapshot = JobSnapshot.from_dict(json.loads(line))
            display.show(snapshot)
        client.wait()
    except KeyboardInterrupt:
        client.send_signal(signal.SIGINT)
        raise
    finally:
        try:
            client.wait(_INTERRUPTED_SECONDS)
        except subprocess.TimeoutExpired:
            client.kill()
            client.wait()
    reader.join(_INTERRUPTED_SECONDS)
    if snapshot is None or not snapshot.status.terminal or client.returncode != exit_codes.BY_STATUS[snapshot.status]:
        raise _Failed("".join(complaints).strip() or f"The job's client ended with {client.returncode}.")
    return snapshot


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _complaint(source: Path, outputs: Mapping[str, Path]) -> str | None:
    """What is wrong with the paths; None when nothing is."""
    if _is_pipe(source):
        if sys.stdin.isatty():
            return "There is no document on stdin: it is a terminal."
    elif not source.is_file():
        return f"{source} is not a file."
    elif not os.access(source, os.R_OK):
        return f"{source} cannot be read."
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        return "The PDF and the text cannot be the same file."
    for name, path in outputs.items():
        if _is_pipe(path):
            if name == "--out" and sys.stdout.isatty():
                return "A PDF is not written to a terminal; name a file, or redirect stdout."
            continue
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
