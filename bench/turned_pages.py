"""Are turned and crooked pages read as well as upright ones, and what does it cost? Beside OCRmyPDF, in the same run.

Run ``CORPUS_DIR=… python -m bench.turned_pages [--pages N] [--ocrmypdf PATH]`` from the checkout. The corpus has pages
and their text as ``gt/oldbooks/NAME.tif`` and ``NAME.gt.txt``. N pages, evenly through it, are turned by each of
``TURNS``; each turn is one PDF. OCRmyPDF runs with ``--rotate-pages --deskew``, one job, no optimization, and whatever
Tesseract it finds; without OCRmyPDF only our own figures are told. Install it into an environment of its own.

* ``recall``: the share of the transcript's words that were found, over all pages.
* ``CPU``: seconds a page, of this process and all its children.
* ``over upright``: that, over the same pages upright.
* ``direction``: CPU of finding and undoing orientation and skew, over all of the CPU.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pypdfium2
from PIL import Image

from tasks.engines import make_engine
from tasks.pdf.geometry import Geometry
from tasks.pdf.ink import ink_mask, look
from tasks.pdf.render import PageRenderer
from tasks.pdf.upright import make_upright
from tasks.recognition import recognise_pages

#: Clockwise, in degrees.
TURNS = (0, 90, 180, 270, 5, -5)
DPI = 300


@dataclass(frozen=True, slots=True)
class Page:
    """A scan and its transcript."""

    image: Image.Image
    words: Counter[str]


def corpus(folder: Path, count: int) -> list[Page]:
    """``count`` pages, evenly through the folder."""
    scans = sorted(folder.glob("*.tif"))
    chosen = scans[:: max(1, len(scans) // count)][:count]
    return [
        Page(Image.open(scan).convert("L"), word_counts(scan.with_suffix(".gt.txt").read_text())) for scan in chosen
    ]


def word_counts(text: str) -> Counter[str]:
    """How often each word occurs."""
    return Counter(re.findall(r"\w+", text.lower()))


def turned_pdf(path: Path, pages: Sequence[Page], turn: int) -> Path:
    """The pages as a PDF of images, turned clockwise, without a /Rotate entry."""
    images = [
        page.image.rotate(-turn, expand=True, fillcolor=255, resample=Image.Resampling.BICUBIC) if turn else page.image
        for page in pages
    ]
    images[0].save(path, "PDF", resolution=DPI, save_all=True, append_images=images[1:])
    return path


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def ours(path: Path, count: int) -> list[str]:
    """The text of each page, by this project."""
    engine = make_engine("tesseract", "eng")
    with PageRenderer(path, dpi=DPI, mode="skip", timeout=120) as renderer:
        texts = [page.text for page in recognise_pages(range(1, count + 1), renderer, engine, page_timeout=120)]
    engine.close()
    return texts


def peer(executable: str) -> Callable[[Path, int], list[str]]:
    """The same by OCRmyPDF."""

    def read(path: Path, count: int) -> list[str]:
        sidecar = path.with_suffix(".txt")
        options = ["-O0", "--jobs", "1", "--output-type", "pdf", "--rotate-pages", "--deskew", "--sidecar", sidecar]
        subprocess.run([executable, *options, path, path.with_suffix(".out.pdf")], check=True, capture_output=True)
        return sidecar.read_text().split("\f")[:count]

    return read


def direction_cpu(path: Path) -> float:
    """CPU seconds for orientation and skew of all pages of a file."""
    spent = 0.0
    with pypdfium2.PdfDocument(path) as pdf:
        for page in pdf:
            image = page.render(scale=DPI / 72, grayscale=True).to_pil()
            started = time.process_time()
            geometry = Geometry(page.get_bbox(), page.get_rotation(), image.width, image.height)
            make_upright(image, ink_mask(look(image, DPI)), geometry, DPI)
            spent += time.process_time() - started
    return spent


def measure(read: Callable[[Path, int], list[str]], path: Path, pages: Sequence[Page]) -> tuple[float, float]:
    """Recall, and CPU seconds a page."""
    started = cpu()
    texts = read(path, len(pages))
    spent = cpu() - started
    found = sum((page.words & word_counts(text)).total() for page, text in zip(pages, texts, strict=False))
    return found / sum(page.words.total() for page in pages), spent / len(pages)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.turned_pages")
    parser.add_argument("--pages", type=int, default=24)
    parser.add_argument("--ocrmypdf", default=shutil.which("ocrmypdf"), metavar="PATH")
    arguments = parser.parse_args(argv)
    if "CORPUS_DIR" not in os.environ:
        sys.exit("Name the corpus with CORPUS_DIR.")
    pages = corpus(Path(os.environ["CORPUS_DIR"]) / "gt" / "oldbooks", arguments.pages)
    readers: dict[str, Callable[[Path, int], list[str]]] = {"ours": ours}
    if arguments.ocrmypdf:
        readers["OCRmyPDF"] = peer(arguments.ocrmypdf)
    print(f"{len(pages)} pages, {sum(page.words.total() for page in pages)} words")
    print(f"{'turned by':>9} {'':>9} {'recall':>7} {'CPU':>6} {'over upright':>13} {'direction':>10}")
    upright: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in TURNS:
            path = turned_pdf(Path(folder) / f"turned{turn}.pdf", pages, turn)
            for name, read in readers.items():
                recall, seconds = measure(read, path, pages)
                first = upright.setdefault(name, seconds)
                line = f"{turn:>9} {name:>9} {recall:>7.4f} {seconds:>6.2f} {seconds / first:>13.2f}"
                share = direction_cpu(path) / (seconds * len(pages)) if name == "ours" else None
                print(line if share is None else f"{line} {share:>9.1%}", flush=True)


if __name__ == "__main__":
    main()
