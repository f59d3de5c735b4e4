"""Page results to the outputs: a searchable PDF, the text, hOCR, and the words with all that is known about them.

Results are read as they come and passed on, so that a document of thousands of pages takes no more memory here than
one of ten. The PDF is made by ``tasks.pdf.graft`` in a process that may die.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, fields
from pathlib import Path
from typing import IO, Any

from tasks import hocr
from tasks.documents import OUTPUT_SUFFIXES
from tasks.engines import Word
from tasks.page_results import PageResult, PageStatus, page_ranges
from tasks.pdf import sandbox

#: Of a document all of whose pages are so, nothing is made.
_ILLEGIBLE = frozenset({PageStatus.UNREADABLE, PageStatus.MISSING})


class MergeFailed(Exception):
    """The searchable PDF could not be made from this document; the same would happen again."""


def merge(
    original: Path,
    folder: Path,
    results: Iterable[PageResult],
    *,
    document_id: str,
    pages: int,
    timeout: float,
    memory_bytes: int = sandbox.MEMORY_BYTES,
) -> Mapping[str, Path]:
    """Write the outputs into ``folder``; the answer is where each suffix is.

    ``txt`` has a form feed between pages, so that page n is the n-th part, whatever is missing; ``hocr`` has a page for
    each. ``json`` is one
    object: ``document_id``, ``pages_total``, ``word_fields``, ``pages`` (each with ``words`` in that order of
    fields), and at its end ``unreadable``, ``without_text_layer`` and ``missing`` (ranges, both ends inclusive).

    :param results: ascending by page; those of ``1..pages`` that do not come are named as missing.
    :param timeout: seconds for all of it.
    :raises MergeFailed: when the PDF cannot be made, or no page of the document could be read.
    """
    outputs = {suffix: folder / f"result.{suffix}" for suffix in OUTPUT_SUFFIXES}
    unreadable: list[dict[str, Any]] = []
    seen: list[int] = []
    legible = 0
    with (
        outputs["txt"].open("w", encoding="utf-8", newline="\n") as text,
        outputs["json"].open("w", encoding="utf-8") as record,
        outputs["hocr"].open("w", encoding="utf-8", newline="\n") as marked_up,
        _grafting(original, outputs["pdf"], timeout, memory_bytes) as grafting,
    ):
        head = {"document_id": document_id, "pages_total": pages, "word_fields": [field.name for field in fields(Word)]}
        record.write(json.dumps(head)[:-1] + ', "pages": [')
        marked_up.write(hocr.head(document_id, pages))
        for result in results:
            last = seen[-1] if seen else 0
            text.write("\f" * (result.page - max(last, 1)) + result.text)
            marked_up.writelines(map(hocr.empty_page, range(last + 1, result.page)))
            marked_up.write(hocr.page(result))
            record.write((",\n" if seen else "\n") + json.dumps(_described(result), ensure_ascii=False))
            grafting.add(result)
            seen.append(result.page)
            legible += result.status not in _ILLEGIBLE
            if result.status is PageStatus.UNREADABLE:
                unreadable.append({"page": result.page, "message": result.message})
        if seen and not legible:
            first = f" {unreadable[0]['message']}" if unreadable else ""
            raise MergeFailed(f"No page of this document could be read.{first}")
        text.write("\f" * (pages - max(seen[-1] if seen else 0, 1)) + "\n")
        marked_up.writelines(map(hocr.empty_page, range((seen[-1] if seen else 0) + 1, pages + 1)))
        marked_up.write(hocr.TAIL)
        tail = {
            "unreadable": unreadable,
            "without_text_layer": grafting.finish(),
            "missing": page_ranges(sorted(set(range(1, pages + 1)) - set(seen))),
        }
        record.write("\n], " + json.dumps(tail)[1:] + "\n")
    return outputs


def _described(result: PageResult) -> dict[str, Any]:
    """A page as in the ``json`` output; boxes are in pixels of a page of ``width`` by ``height``."""
    geometry = result.geometry
    return {
        "page": result.page,
        "status": result.status.value,
        "reason": result.reason,
        "message": result.message,
        "confidence": result.confidence,
        "doubtful": result.doubtful,
        "dpi": result.dpi,
        "width": None if geometry is None else geometry.width,
        "height": None if geometry is None else geometry.height,
        "orientation": 0 if geometry is None else geometry.orientation,
        "skew": 0 if geometry is None else geometry.skew,
        "text": result.text,
        "words": [astuple(word) for word in result.words_on_bitmap()],
    }


class _Grafting:
    """The child that makes the PDF: pages go in, what became of them comes out."""

    def __init__(self, child: subprocess.Popen[bytes], stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._child, self._stdin, self._stdout = child, stdin, stdout

    def add(self, result: PageResult) -> None:
        """Pass a page on, if there is something to add to it."""
        if result.changes_page:
            try:
                self._stdin.write(json.dumps(result.to_dict()).encode() + b"\n")
            except BrokenPipeError:
                raise self._failure() from None

    def finish(self) -> list[int]:
        """Wait for the file; the pages that took no text layer."""
        try:
            self._stdin.close()
        except BrokenPipeError:
            raise self._failure() from None
        answer = json.loads(self._stdout.read() or b"null")
        if answer is None:
            raise self._failure()
        if "error" in answer:
            raise MergeFailed(answer["error"])
        refused: list[int] = answer["refused"]
        return refused

    def _failure(self) -> MergeFailed:
        """What the child said before it ended, or that it took too much."""
        answer = json.loads(self._stdout.read() or b"null")
        return MergeFailed(
            answer["error"] if answer else "The text could not be added to the PDF: it takes too much memory or time."
        )


@contextmanager
def _grafting(original: Path, out: Path, timeout: float, memory_bytes: int) -> Iterator[_Grafting]:
    child = sandbox.spawn("tasks.pdf.graft", str(original), str(out), str(memory_bytes), stdin=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    clock = threading.Timer(timeout, child.kill)
    clock.start()
    try:
        yield _Grafting(child, child.stdin, child.stdout)
    finally:
        # Also when the job was cancelled in the middle: nobody waits for the file any more.
        clock.cancel()
        child.kill()
        child.wait()
        child.stdout.close()
        with suppress(BrokenPipeError):
            child.stdin.close()
