"""Pages to bitmaps, in a child process that is killed when a page takes too long or too much.

pdfium cannot be interrupted, and a file of 775 bytes can keep it busy for ever. The child (``tasks.pdf.render_child``)
lives as long as its pages behave; the next page after a bad one gets a new child.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.engines import Bitmap
from tasks.pdf import sandbox
from tasks.pdf.geometry import Geometry
from tasks.pdf.own_words import OwnWord

#: Seconds to find out why a page shows nothing. It only changes the words of a message.
_INSPECT_SECONDS = 5.0
#: CPU seconds for drawing a page, whatever its time: what takes longer is built to, or broken.
_RENDER_CPU_SECONDS = 20.0


class PageUnreadable(Exception):
    """The page could not be rendered. ``reason`` is a key of ``REASONS``, with the details that it needs."""

    def __init__(self, reason: str, **details: Any) -> None:
        super().__init__(reason)
        self.reason = reason
        self.details = details


@dataclass(frozen=True, kw_only=True)
class RenderedPage:
    """A page as seen. ``bitmap`` is upright, and None where there is nothing to recognise: it is kept or blank."""

    geometry: Geometry
    dpi: float
    #: The text that it carries already and that counts in this mode.
    own_text: str
    #: All words that the file has and keeps, with boxes on the page as displayed, in the bitmap's pixels.
    own_words: Sequence[OwnWord]
    #: It carries an invisible text layer that is to be replaced.
    replaces_layer: bool
    #: Whether it is beyond doubt which way the lines run.
    axis_sure: bool
    bitmap: Bitmap | None


class PageRenderer:
    """Renders pages of one file, one at a time. A context manager: the child ends with it.

    ``mode`` says which of the text that a page carries already counts. What counts stays, and the rest of the page is
    read, where there is more on it than that text:

    ======== ================= ================================== ====================================
    mode     visible text      invisible layer of an earlier OCR  text that nobody can see
    ======== ================= ================================== ====================================
    skip     counts            counts                             does not: what hides it is read
    redo     counts            is replaced                        does not
    force    does not          is replaced                        does not
    ======== ================= ================================== ====================================

    A word that the file has already, in this place, is never added to it again. OCRmyPDF's ``skip`` leaves a page as
    it is when it carries any text: a scan with a stamped line is lost there, and read here.
    """

    def __init__(self, path: Path, *, dpi: float, mode: str, timeout: float, memory_bytes: int | None = None) -> None:
        """``timeout``: seconds for one page. ``memory_bytes``: what the child may allocate, else by the file's size."""
        self._arguments = (str(path), str(dpi), mode, str(memory_bytes or sandbox.memory_to_draw(path)))
        self._timeout = timeout
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def render(self, page: int) -> RenderedPage:
        """Page ``page``, counted from 1.

        :raises PageUnreadable: it broke the renderer, or took too long.
        """
        answer, pixels = self._ask("render", page, self._timeout)
        box, *numbers = answer["geometry"]
        geometry = Geometry(tuple(box), *numbers)
        width, height = geometry.upright_size
        bitmap = Bitmap(width, height, width, pixels, answer["dpi"]) if pixels else None
        return RenderedPage(
            geometry=geometry,
            dpi=answer["dpi"],
            own_text=answer["own_text"],
            own_words=[OwnWord(text, tuple(box), *kind) for text, box, *kind in answer["own_words"]],
            replaces_layer=answer["replaces_layer"],
            axis_sure=answer["axis_sure"],
            bitmap=bitmap,
        )

    def fault(self, page: int, *, thorough: bool) -> str | None:
        """What is lost of a page with an image that is missing or broken: the reason; None where nothing is wrong.

        pdfium draws such a page without it, or without the rest of it, and reports no error.

        :param thorough: decode every image, for a page on which nothing believable was read; else only those whose data
            looks too short.
        """
        try:
            answer, _ = self._ask("inspect", page, min(_INSPECT_SECONDS, self._timeout), thorough=thorough)
        except PageUnreadable:
            return "image_undecodable" if thorough else None
        fault: str | None = answer["fault"]
        return fault

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(BrokenPipeError):  # what the dead child did not read any more
                    if pipe is not None:
                        pipe.close()

    def _ask(self, what: str, page: int, seconds: float, **options: Any) -> tuple[dict[str, Any], bytes]:
        """One request, one line of JSON, and as many bytes as it announces."""
        if self._child is None:
            self._child = sandbox.spawn("tasks.pdf.render_child", *self._arguments, stdin=subprocess.PIPE)
        child, timed_out = self._child, threading.Event()
        request = {"do": what, "page": page, "cpu_seconds": min(seconds, _RENDER_CPU_SECONDS), **options}

        def give_up() -> None:
            timed_out.set()
            child.kill()

        assert child.stdin is not None
        assert child.stdout is not None
        clock = threading.Timer(seconds, give_up)
        clock.start()
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            answer = json.loads(child.stdout.readline() or b"null")
            pixels = child.stdout.read(answer["bytes"]) if answer and "bytes" in answer else b""
        except (BrokenPipeError, ValueError):  # it died before the request, or within its answer
            answer, pixels = None, b""
        except BaseException:
            # A soft time limit or a revoke in the middle of an answer: the rest would be taken for the next one.
            self.close()
            raise
        finally:
            clock.cancel()
        if answer is None or len(pixels) < answer.get("bytes", 0):
            self.close()
            if timed_out.is_set():
                raise PageUnreadable("render_timeout", seconds=seconds)
            raise PageUnreadable("render_died")
        if "error" in answer:
            raise PageUnreadable(answer["error"], **answer["details"])
        return answer, pixels
