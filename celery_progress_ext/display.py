"""A snapshot for people: in one line, in a terminal, in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from celery_progress_ext.wording import duration, finish_text

if TYPE_CHECKING:
    from celery_progress_ext.jobs import JobSnapshot, StalledChunk

#: Failures that are named one by one; the rest is counted.
_MOST_FAILURES = 5


def one_line(job: JobSnapshot) -> str:
    """``job_1f… PROCESSING: Processing chunk 5/17, 29 %, pages 139/425; about 14:30 · 20 min left``."""
    error = f" ({job.error})" if job.error else ""
    stalled = f"; {len(job.stalled)} stalled" if job.stalled else ""
    left = time_left(job)
    line = (
        f"{job.job_id} {job.status.value}: {job.stage}, {job.progress_pct} %,"
        f" {job.unit} {job.pages_done}/{job.pages_total}{error}{stalled}" + (f"; {left}" if left else "")
    )
    # An error may have lines of its own.
    return " ".join(line.split())


def time_left(job: JobSnapshot, now: float | None = None) -> str:
    """When it will be done, or why nothing moves; nothing before the first estimate or after the end.

    :param now: seconds since the epoch; this process's clock unless given.
    """
    if job.status.terminal:
        return ""
    if job.waiting is not None:
        return job.waiting.reason
    return "" if job.eta is None else finish_text(job.eta, now)


def stalled_text(chunk: StalledChunk, passed: float = 0.0) -> str:
    """``Chunk 3 has made no progress for 5 min: …``; ``passed`` are seconds since that was read."""
    seconds = duration(chunk.seconds + passed)
    return f"Chunk {chunk.chunk_index + 1} has made no progress for {seconds}: {chunk.reason}"


def troubles(job: JobSnapshot) -> list[str]:
    """What failed and what is stalled, a sentence each, and how many more failed."""
    named = job.failures[:_MOST_FAILURES]
    sentences = [failure.message for failure in named]
    if job.failures_total > len(named):
        sentences.append(f"… and {job.failures_total - len(named)} more")
    return sentences + [stalled_text(chunk) for chunk in job.stalled]


def as_html(job: JobSnapshot) -> str:
    """An HTML fragment without scripts: the stage, a bar, and what failed or is stalled."""
    facts = [f"{job.pages_done}/{job.pages_total} {job.unit}", time_left(job), job.error or ""]
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in troubles(job))
    return (
        f'<div class="job-progress" data-job="{escape(job.job_id)}" data-status="{job.status.value.lower()}">'
        f"<strong>{escape(job.stage)}</strong> <small>{job.status.value}</small><br>"
        f'<progress value="{job.work_pct:g}" max="100" style="width:24em"></progress> {job.work_pct:g} %<br>'
        f"<small>{escape(' · '.join(fact for fact in facts if fact))}</small>"
        + (f"<ul>{items}</ul>" if items else "")
        + "</div>"
    )


def as_rich(job: JobSnapshot) -> Any:
    """A rich renderable with the same content."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, 1))
    left = time_left(job)
    line.add_row(
        ProgressBar(total=100, completed=job.work_pct, width=40),
        f"{job.work_pct:g} %",
        f"{job.pages_done}/{job.pages_total} {job.unit}" + (f" · {left}" if left else ""),
    )
    title = Text.assemble((job.stage, "bold"), " ", (job.status.value, "dim"))
    error = [Text(job.error, style="red")] if job.error else []
    return Group(title, line, *error, *(Text(sentence, style="yellow") for sentence in troubles(job)))
