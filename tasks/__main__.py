"""The command line: ``python -m tasks up | ocr | submit | keys | migrate | sample``.

What each does is imported when it is asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from celery_progress_ext.config import Settings
from celery_progress_ext.exceptions import InvalidSetting
from tasks import exit_codes
from tasks.settings import ServiceSettings

_CORES = os.cpu_count() or 1
_PORT = 8000

_SUBMIT = """Hand a document to a running service: the one at --url, the one that CELERY_BROKER_URL,
PROGRESS_DATABASE_URL and DOCUMENTS_URL name together, or the `up` that runs on this machine."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the answer is its exit code (``tasks.exit_codes``; wrong usage is 2)."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        _check_settings()
        return command(arguments)
    except InvalidSetting as error:
        print(error, file=sys.stderr)
        return exit_codes.USAGE
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; Python would say so once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.FAILED


def _check_settings() -> None:
    """Every setting of the environment, before anything is started.

    :raises InvalidSetting: for the first that cannot be used.
    """
    ServiceSettings.read()
    Settings.read({})


def _up(arguments: argparse.Namespace) -> int:
    from tasks.cli.up import up

    return up(
        port=arguments.port,
        data_dir=arguments.data_dir,
        workers=arguments.workers,
        sample=arguments.sample or arguments.exit_when_done,
        exit_when_done=arguments.exit_when_done,
        verbose=arguments.verbose,
    )


def _ocr(arguments: argparse.Namespace) -> int:
    from tasks.cli.ocr import ocr

    return ocr(
        arguments.source,
        arguments.out,
        text=arguments.text,
        workers=arguments.workers,
        options=_chosen(arguments),
        verbose=arguments.verbose,
    )


def _submit(arguments: argparse.Namespace) -> int:
    from tasks.cli.services import Target
    from tasks.cli.submit import submit

    return submit(
        None if arguments.sample else arguments.source,
        target=Target(url=arguments.url, key=arguments.key, data_dir=arguments.data_dir),
        matter_id=arguments.matter,
        options=_chosen(arguments),
        watch=arguments.watch or arguments.json,
        outputs={suffix: path for suffix, path in (("pdf", arguments.out), ("txt", arguments.text)) if path},
        as_json=arguments.json,
    )


def _sample(arguments: argparse.Namespace) -> int:
    from tasks.sample import make_sample

    try:
        make_sample(arguments.out, pages=arguments.pages)
    except OSError as error:
        print(f"{arguments.out} cannot be written: {error.strerror}.", file=sys.stderr)
        return exit_codes.USAGE
    return 0


def _migrate(_arguments: argparse.Namespace) -> int:
    from tasks.cli.migrate import migrate

    return migrate()


def _add_key(arguments: argparse.Namespace) -> int:
    from tasks.cli import keys

    return keys.add(
        matters=arguments.matter,
        role=arguments.role,
        label=arguments.label,
        days=arguments.days,
        data_dir=arguments.data_dir,
        as_json=arguments.json,
    )


def _list_keys(arguments: argparse.Namespace) -> int:
    from tasks.cli import keys

    return keys.list_keys(data_dir=arguments.data_dir, as_json=arguments.json)


def _revoke_key(arguments: argparse.Namespace) -> int:
    from tasks.cli import keys

    return keys.revoke(arguments.id, data_dir=arguments.data_dir, as_json=arguments.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks", description="Document OCR: scans in, searchable PDFs out.")
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(required=True, metavar="up | ocr | submit | keys | migrate | sample")

    up = commands.add_parser("up", help="run the whole service on this machine until Ctrl-C")
    up.set_defaults(command=_up)
    up.add_argument("--port", type=_port, help=f"the web's; 0 for any free one (PORT, or {_PORT})")
    up.add_argument("--data-dir", type=Path, default=Path("var"), help="what is kept is kept here")
    up.add_argument("--workers", type=_positive, default=_CORES, help="chunks worked on at once")
    up.add_argument("-v", "--verbose", action="store_true", help="print what each process logs, too")
    up.add_argument("--sample", action="store_true", help="submit a sample scan and show its progress")
    up.add_argument("--exit-when-done", action="store_true", help="end with the sample's exit code (implies --sample)")

    ocr = commands.add_parser("ocr", help="make one PDF searchable")
    ocr.set_defaults(command=_ocr)
    ocr.add_argument("source", type=Path, metavar="IN.pdf", help="- for stdin")
    ocr.add_argument("out", type=Path, metavar="OUT.pdf", help="- for stdout")
    ocr.add_argument("--text", "--sidecar", type=Path, metavar="OUT.txt", help="write the plain text too")
    ocr.add_argument("--workers", type=_positive, default=_CORES, help="chunks worked on at once")
    ocr.add_argument("-v", "--verbose", action="store_true", help="print what each process logs, on stderr")
    ocr.add_argument("--version", action=_Version)
    _add_options(ocr)

    submit = commands.add_parser("submit", help="hand a document to a running service", description=_SUBMIT)
    submit.set_defaults(command=_submit)
    what = submit.add_mutually_exclusive_group(required=True)
    what.add_argument("source", type=Path, nargs="?", metavar="IN.pdf")
    what.add_argument("--sample", action="store_true", help="the sample scan instead of a file")
    submit.add_argument("--matter", default="default", help="what it belongs to, the unit of access")
    submit.add_argument("--url", default=os.environ.get("OCR_URL") or None, help="of the service (OCR_URL)")
    submit.add_argument(
        "--key", default=os.environ.get("OCR_KEY") or None, help="an API key for it (OCR_KEY, which `ps` does not show)"
    )
    submit.add_argument("--data-dir", type=Path, help="of the `up` that is meant")
    _add_options(submit)
    submit.add_argument("--watch", action="store_true", help="follow it to its end")
    submit.add_argument("--json", action="store_true", help="follow it in JSON, a snapshot a line")
    submit.add_argument("--out", type=Path, metavar="OUT.pdf", help="follow it, and write the searchable PDF")
    submit.add_argument("--text", type=Path, metavar="OUT.txt", help="follow it, and write the plain text")

    _add_keys(commands.add_parser("keys", help="who may come in: keys in the database of the service"))

    migrate = commands.add_parser("migrate", help="make or upgrade the tables, those of the library too")
    migrate.set_defaults(command=_migrate)

    sample = commands.add_parser("sample", help="write a sample scan")
    sample.set_defaults(command=_sample)
    sample.add_argument("out", type=Path, metavar="OUT.pdf")
    sample.add_argument("--pages", type=_positive, default=24)
    return parser


def _add_keys(keys: argparse.ArgumentParser) -> None:
    commands = keys.add_subparsers(required=True, metavar="add | list | revoke")

    add = commands.add_parser("add", help="make a key, and print it this once")
    add.set_defaults(command=_add_key)
    add.add_argument("--matter", action="append", required=True, help='which it opens; may be repeated; "*" for all')
    add.add_argument("--role", choices=("read", "submit", "admin"), default="submit", help="each includes the former")
    add.add_argument("--label", default="", metavar="TEXT", help="whom it is for")
    add.add_argument("--days", type=_days, metavar="N", help="it ends by itself after so many days")

    listing = commands.add_parser("list", help="the keys that open something now")
    listing.set_defaults(command=_list_keys)

    revoke = commands.add_parser("revoke", help="let a key open nothing any more")
    revoke.set_defaults(command=_revoke_key)
    revoke.add_argument("id")

    for command in (add, listing, revoke):
        command.add_argument("--json", action="store_true", help="for programs")
        command.add_argument("--data-dir", type=Path, default=Path("var"), help="of `up`; PROGRESS_DATABASE_URL wins")


def _add_options(command: argparse.ArgumentParser) -> None:
    """How a document is read. The values are checked where the options are read (``tasks.options``)."""
    options = command.add_argument_group("how it is read (each as the deployment has it, unless given)")
    options.add_argument("-l", "--language", metavar="LANG", help="of Tesseract, such as eng or eng+deu")
    options.add_argument("--mode", metavar="skip|redo|force", help="what happens to text that a page carries already")
    options.add_argument("--pages", metavar="RANGES", help="such as 1-3,7,12-; the others stay as they are")
    options.add_argument("--dpi", metavar="DPI", help="resolution of recognition")
    options.add_argument("--rotate-pages", action="store_const", const="true", help="turn pages that lie on their side")
    options.add_argument("--engine", metavar="NAME", help="what reads it")
    options.add_argument("--chunk-pages", metavar="N", help="pages per chunk")


def _chosen(arguments: argparse.Namespace) -> dict[str, str | None]:
    names = ("language", "mode", "pages", "dpi", "rotate_pages", "engine", "chunk_pages")
    return {name: given for name in names if (given := getattr(arguments, name)) is not None}


class _Version(argparse.Action):
    """Looks the version up when it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, help="print the version and exit", **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(version("celery-progress-ext"))
        parser.exit()


def _positive(text: str) -> int:
    return _whole(text, range(1, 1001))


def _port(text: str) -> int:
    return _whole(text, range(65536))


def _whole(text: str, allowed: range) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if number not in allowed:
        raise argparse.ArgumentTypeError(f"must be a whole number from {allowed[0]} to {allowed[-1]}, not {text!r}")
    return number


def _days(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 36_500:
        raise argparse.ArgumentTypeError(f"must be above 0, and at most 36500, not {text!r}")
    return number


if __name__ == "__main__":
    sys.exit(main())
