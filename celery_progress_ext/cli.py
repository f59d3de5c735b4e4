"""``celery -A APP progress migrate | list | show | watch | retry | cancel | audit | eta``."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand

from celery_progress_ext.display import one_line, time_left
from celery_progress_ext.exceptions import ProgressError

# Celery imports this module in each of its commands, for every app of the environment: a worker that tracks nothing
# should not load the library for it, nor one that does rich.
if TYPE_CHECKING:
    from celery_progress_ext.extension import CeleryProgress

#: Exit codes; click itself uses 2 for wrong usage.
EXIT_ERROR, EXIT_DRIFT = 1, 3


@click.group(help="Follow, retry, cancel and audit tracked chords.")
def progress() -> None:
    """The group that Celery's own command line finds through the entry point."""


def _command(*params: Callable[[Any], Any]) -> Callable[[Callable[..., None]], Any]:
    """A command that gets the app's ``CeleryProgress`` first, and prints an error as one sentence."""

    def wrap(work: Callable[..., None]) -> Any:
        @wraps(work)
        def run(**options: Any) -> None:
            from celery_progress_ext.extension import CeleryProgress

            try:
                work(CeleryProgress.of(click.get_current_context().obj.app), **options)
            except ProgressError as error:
                raise click.ClickException(str(error)) from error

        command: Any = run
        for param in reversed(params):
            command = param(command)
        return progress.command(name=work.__name__.rstrip("_"), cls=CeleryCommand, help=work.__doc__)(command)

    return wrap


_job = click.argument("job_id", metavar="JOB")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")


@_command()
def migrate(extension: CeleryProgress) -> None:
    """Make or upgrade the tables."""
    click.echo(f"The progress tables are at revision {extension.migrate()}.")


@_command(
    click.option("--owner", "--matter", "owner", help="Only the jobs of this owner."),
    click.option("--limit", default=20, show_default=True, help="At most so many."),
    _as_json,
)
def list_(extension: CeleryProgress, owner: str | None, limit: int, as_json: bool) -> None:
    """The newest jobs."""
    from rich.console import Console
    from rich.table import Table

    snapshots = extension.jobs.list(owner=owner, limit=limit)
    if as_json:
        for snapshot in snapshots:
            click.echo(json.dumps(snapshot.to_dict(), ensure_ascii=False))
        return
    table = Table("job", "owner", "status", "stage", "%", "done", "finish", box=None)
    for snapshot in snapshots:
        table.add_row(
            snapshot.job_id,
            snapshot.owner or "",
            snapshot.status,
            snapshot.stage,
            str(snapshot.progress_pct),
            f"{snapshot.pages_done}/{snapshot.pages_total} {snapshot.unit}",
            time_left(snapshot),
        )
    Console(width=None if Console().is_terminal else 200).print(table)


@_command(_job, _as_json)
def show(extension: CeleryProgress, job_id: str, as_json: bool) -> None:
    """One job, with its failures and what happened to it."""
    snapshot = extension.jobs.snapshot(job_id)
    if as_json:
        click.echo(json.dumps(snapshot.to_dict(), ensure_ascii=False, indent=2))
        return
    click.echo(one_line(snapshot))
    for failure in snapshot.failures:
        click.echo(f"  {failure.message}")
    for stalled in snapshot.stalled:
        click.echo(f"  Chunk {stalled.chunk_index + 1} is stalled for {stalled.seconds:.0f} s: {stalled.reason}")
    for event in extension.jobs.history(job_id):
        chunk = "" if event["chunk_index"] is None else f" chunk {event['chunk_index'] + 1}"
        note = f": {event['message']}" if event["message"] else ""
        click.echo(f"  {event['at']} v{event['version']} {event['type']}{chunk}{note}")


@_command(_job, _as_json)
def watch(extension: CeleryProgress, job_id: str, as_json: bool) -> None:
    """Follow a job to its end."""
    said = ""
    for snapshot in extension.watch(job_id):
        line = json.dumps(snapshot.to_dict(), ensure_ascii=False) if as_json else one_line(snapshot)
        if line != said:
            click.echo(line)
        said = line


@_command(_job)
def retry(extension: CeleryProgress, job_id: str) -> None:
    """Run only what failed again."""
    click.echo(one_line(extension.retry_failed(job_id)))


@_command(_job)
def cancel(extension: CeleryProgress, job_id: str) -> None:
    """Stop a job; what is finished is kept."""
    click.echo(one_line(extension.cancel(job_id)))


@_command(click.argument("job_id", metavar="[JOB]", required=False))
def audit(extension: CeleryProgress, job_id: str | None) -> None:
    """Recount every job, or JOB, from its chunks and its history; exit 3 where something differs."""
    drifts = extension.audit(job_id)
    for drift in drifts:
        click.echo(f"{drift}; {drift.advice}")
    if drifts:
        click.get_current_context().exit(EXIT_DRIFT)
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
        click.echo("No job has ended since finish times are learned from; the tick (beat) does that.")
        return
    for kind in kinds:
        click.echo(f"{kind['kind']}: {kind['jobs']} jobs")
        table = Table("phase", "promises", "median error", "80 % interval held", "width", box=None, pad_edge=False)
        for row in kind["phases"]:
            shares = (f"{100 * row[name]:.0f} %" for name in ("error", "held", "width"))
            table.add_row(row["phase"], str(row["promises"]), *shares)
        Console(width=None if Console().is_terminal else 200).print(table)
