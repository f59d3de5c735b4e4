"""The command line: ``python -m tasks up | ocr | submit | sample``. What each does is imported when it is asked for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_CORES = os.cpu_count() or 1
_PORT = 8000


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the answer is its exit code (``tasks.exit_codes``; wrong usage is 2)."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    return command(arguments)


def _up(arguments: argparse.Namespace) -> int:
    from tasks.cli.up import up

    return up(
        port=arguments.port,
        data_dir=arguments.data_dir,
        workers=arguments.workers,
        sample=arguments.sample or arguments.exit_when_done,
        exit_when_done=arguments.exit_when_done,
    )


def _ocr(arguments: argparse.Namespace) -> int:
    from tasks.cli.ocr import ocr

    return ocr(
        arguments.source,
        arguments.out,
        text=arguments.text,
        workers=arguments.workers,
        chunk_pages=arguments.chunk_pages,
    )


def _submit(arguments: argparse.Namespace) -> int:
    from tasks.cli.submit import submit

    return submit(
        None if arguments.sample else arguments.source,
        matter_id=arguments.matter,
        chunk_pages=arguments.chunk_pages,
        watch=arguments.watch,
        outputs={suffix: path for suffix, path in (("pdf", arguments.out), ("txt", arguments.text)) if path},
    )


def _sample(arguments: argparse.Namespace) -> int:
    from tasks.sample import make_sample

    make_sample(arguments.out, pages=arguments.pages)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks", description="Document OCR: scans in, searchable PDFs out.")
    commands = parser.add_subparsers(required=True, metavar="up | ocr | submit | sample")

    up = commands.add_parser("up", help="run the whole service on this machine until Ctrl-C")
    up.set_defaults(command=_up)
    up.add_argument("--port", type=_port, default=os.environ.get("PORT") or _PORT, help="the web's; 0 for any free one")
    up.add_argument("--data-dir", type=Path, default=Path("var"), help="what is kept is kept here")
    up.add_argument("--workers", type=_positive, default=_CORES, help="chunks worked on at once")
    up.add_argument("--sample", action="store_true", help="submit a sample scan and show its progress")
    up.add_argument("--exit-when-done", action="store_true", help="end with the sample's exit code (implies --sample)")

    ocr = commands.add_parser("ocr", help="make one PDF searchable")
    ocr.set_defaults(command=_ocr)
    ocr.add_argument("source", type=Path, metavar="IN.pdf")
    ocr.add_argument("out", type=Path, metavar="OUT.pdf")
    ocr.add_argument("--text", type=Path, metavar="OUT.txt", help="write the plain text too")
    ocr.add_argument("--workers", type=_positive, default=_CORES, help="chunks worked on at once")
    ocr.add_argument("--chunk-pages", type=_positive, default=25, help="pages per chunk")

    submit = commands.add_parser("submit", help="hand a document to a running service, by its environment")
    submit.set_defaults(command=_submit)
    what = submit.add_mutually_exclusive_group(required=True)
    what.add_argument("source", type=Path, nargs="?", metavar="IN.pdf")
    what.add_argument("--sample", action="store_true", help="the sample scan instead of a file")
    submit.add_argument("--matter", default="default")
    submit.add_argument("--chunk-pages", type=_positive)
    submit.add_argument("--watch", action="store_true", help="follow it to its end")
    submit.add_argument("--out", type=Path, metavar="OUT.pdf", help="follow it, and write the searchable PDF")
    submit.add_argument("--text", type=Path, metavar="OUT.txt", help="follow it, and write the plain text")

    sample = commands.add_parser("sample", help="write a sample scan")
    sample.set_defaults(command=_sample)
    sample.add_argument("out", type=Path, metavar="OUT.pdf")
    sample.add_argument("--pages", type=_positive, default=24)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError("must be between 0 and 65535")
    return number


if __name__ == "__main__":
    sys.exit(main())
