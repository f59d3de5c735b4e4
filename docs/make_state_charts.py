"""Draw the state charts of chords.md from the transition tables: `python docs/make_state_charts.py`."""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import StrEnum
from pathlib import Path

from celery_progress_ext.chunks import CHUNK_TRANSITIONS
from celery_progress_ext.jobs import JOB_TRANSITIONS

PAGE = Path(__file__).parent / "chords.md"
BEGIN, END = "<!-- state charts: begin -->\n", "<!-- state charts: end -->"


def chart(title: str, table: Mapping[StrEnum, Set[StrEnum]]) -> str:
    """One table as a Mermaid state diagram; steps that leave a state where it is are left out."""
    arrows = [f"    {old.value} --> {new.value}" for new in table for old in sorted(table[new]) if old is not new]
    return "\n".join([f"{title}:", "", "```mermaid", "stateDiagram-v2", *arrows, "```", ""])


def page(text: str) -> str:
    """The page with its charts drawn anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    charts = chart("A job", JOB_TRANSITIONS) + "\n" + chart("A chunk", CHUNK_TRANSITIONS)
    return f"{before}{BEGIN}\n{charts}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
