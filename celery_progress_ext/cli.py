"""``celery -A APP progress migrate | list | show | watch | retry | cancel | audit | eta``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand

from celery_progress_ext.exceptions import ProgressError

# Celery imports this module in each of its commands, for every app of the environment: a worker that tracks nothing
# should not load the library for it, nor one that does rich.
if TYPE_CHECKING:
    from celery_progress_ext.extension import CeleryProgress
    from celery_progress_ext.jobs import JobSnapshot

#: Exit codes; click itself uses 2 for wrong usage.
EXIT_ERROR, EXIT_DRIFT = 1, 3
#: Of `watch`, by the status that a job ends with; and where it was asked to be strict.
EXIT_CODES = {"COMPLETED": 0, "PARTIAL": 0, "FAILED": EXIT_ERROR, "CANCELLED": EXIT_ERROR}
EXIT_CODES_PARTIAL = {"PARTIAL": 4}


@click.group(help="Follow, retry, cancel and audit tracked chords.")
def progress() -> None:
    """The group that Celery's own command line finds through the entry point."""


def _command(*params: Callable[[Any], Any]) -> Callable[[Callable[..., None]], Any]:
    """A command that gets the app's ``CeleryProgress`` first, and prints an error as one sentence."""

    def wrap(work: Callable[..., None]) -> Any:
        @wraps(work)
        def run(**options: Any) -> None:
            from celery_progress_ext.extension import CeleryProgress

            app = click.get_current_context().obj.app
            if "DJANGO_SETTINGS_MODULE" in os.environ:
                # Celery sets Django up when it imports the project's tasks; Django's settings say where the tables are.
                app.loader.import_default_modules()
            try:
                work(CeleryProgress.of(app), **options)
            except ProgressError as error:
                raise click.ClickException(str(error)) from error

        command: Any = run
        for param in reversed(params):
            command = param(command)
        return progress.command(name=work.__name__.rstrip("_"), cls=CeleryCommand, help=work.__doc__)(command)

    return wrap


_job = click.argument("job_id", metavar="JOB")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")


@_command(_as_json)
def migrate(extension: CeleryProgress, as_json: bool) -> None:
    """Make or upgrade the tables."""
    revision = extension.migrate()
    click.echo(json.dumps({"revision": revision}) if as_json else f"The progress tables are at revision {revision}.")


@_command(
    click.option("--owner", "--matter", "owner", help="Only the jobs of this owner."),
    click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many."),
    click.option("--active", is_flag=True, help="Only jobs that are not over."),
    _as_json,
)
def list_(extension: CeleryProgress, owner: str | None, limit: int, active: bool, as_json: bool) -> None:
    """The newest jobs. The other commands take a job's short id, or any beginning of its id."""
    from celery_progress_ext import listing

    snapshots = extension.jobs.list(owner=owner, limit=limit, active_only=active)
    if as_json:
        for snapshot in snapshots:
            _say(snapshot, as_json)
    elif snapshots:
        _print(listing.rows(snapshots))
    else:
        click.echo("There is no job.", err=True)


@_command(_job, _as_json)
def show(extension: CeleryProgress, job_id: str, as_json: bool) -> None:
    """One job, with its failures and what happened to it."""
    from celery_progress_ext import listing

    snapshot = extension.jobs.named(job_id)
    if as_json:
        click.echo(json.dumps(snapshot.to_dict(), ensure_ascii=False, indent=2))
    else:
        _print(listing.lines(snapshot, extension.jobs.history(snapshot.job_id)))


@_command(
    _job,
    click.option("--exit-status", is_flag=True, help="Exit 4 where the job ends PARTIAL, too."),
    _as_json,
)
def watch(extension: CeleryProgress, job_id: str, exit_status: bool, as_json: bool) -> None:
    """Follow a job to its end; exit 1 where it ends FAILED or CANCELLED."""
    from celery_progress_ext import listing
    from celery_progress_ext.terminal import display_for

    snapshot = extension.jobs.named(job_id)
    following = extension.watch(snapshot.job_id)
    if as_json or not sys.stdout.isatty():
        said = None
        for snapshot in following:
            if (line := snapshot.to_dict() if as_json else listing.state(snapshot)) != said:
                _say(snapshot, as_json)
            said = line
    else:
        with display_for(sys.stdout, title=listing.name(snapshot)) as display:
            for snapshot in following:
                display.show(snapshot)
        _say(snapshot, as_json=False)
    codes = EXIT_CODES | (EXIT_CODES_PARTIAL if exit_status else {})
    click.get_current_context().exit(codes[snapshot.status])


@_command(_job, _as_json)
def retry(extension: CeleryProgress, job_id: str, as_json: bool) -> None:
    """Run only what failed again."""
    _say(extension.retry_failed(extension.jobs.named(job_id).job_id), as_json)


@_command(_job, _as_json)
def cancel(extension: CeleryProgress, job_id: str, as_json: bool) -> None:
    """Stop a job; what is finished is kept."""
    _say(extension.cancel(extension.jobs.named(job_id).job_id), as_json)


@_command(click.argument("job_id", metavar="[JOB]", required=False), _as_json)
def audit(extension: CeleryProgress, job_id: str | None, as_json: bool) -> None:
    """Recount every job, or JOB, from its chunks and its history; exit 3 where something differs."""
    drifts = extension.audit(None if job_id is None else extension.jobs.named(job_id).job_id)
    for drift in drifts:
        record = {**asdict(drift), "message": str(drift), "advice": drift.advice}
        click.echo(json.dumps(record, ensure_ascii=False) if as_json else f"{drift}; {drift.advice}")
    if drifts:
        click.get_current_context().exit(EXIT_DRIFT)
    if not as_json:
        click.echo("Every counter equals its chunk rows, and every row its history.")


@_command(_as_json)
def eta(extension: CeleryProgress, as_json: bool) -> None:
    """How right the finish times have been, by kind of jobs and phase."""
    from rich.console import Console
    from rich.table import Table

    kinds = extension.estimate_scores()
    if as_json:
        for kind in kinds:
            click.echo(json.dumps(kind, ensure_ascii=False))
        return
    if not kinds:
        click.echo("No job has ended since finish times are learned from; the tick (beat) does that.", err=True)
        return
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    for kind in kinds:
        console.print(f"{kind['kind']}: {kind['jobs']} jobs", markup=False)
        table = Table("phase", "promises", "median error", "80 % held", "width", box=None, pad_edge=False)
        for row in kind["phases"]:
            shares = (f"{100 * row[name]:.0f} %" for name in ("error", "held", "width"))
            table.add_row(row["phase"], str(row["promises"]), *shares)
        console.print(table)


def _say(snapshot: JobSnapshot, as_json: bool) -> None:
    from celery_progress_ext import listing

    if as_json:
        click.echo(json.dumps(snapshot.to_dict(), ensure_ascii=False))
    else:
        _print([listing.state(snapshot)])


def _print(lines: Iterable[str]) -> None:
    """Names and errors may carry anything; a terminal must not obey it."""
    from celery_progress_ext.wording import printable

    for line in lines:
        click.echo(printable(line))
