"""What the second engine costs and finds: Tesseract alone, PP-OCR alone, and ``auto``, on pages whose words are known.

``python -m bench.second_engine CORPUS [--pages N]`` reads pages of ``big/scan425.pdf`` as they are (English print), and
the same pages as a bad receipt or fax would show them. Reports CPU seconds a page, and the share of words found.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pypdfium2
from PIL import Image, ImageFilter

from tasks.engines import Bitmap, make_engine

ENGINES = ("tesseract", "ppocr", "auto")


def _small(image: Image.Image) -> Image.Image:
    """Photographed from afar: a quarter of the pixels, as JPEG."""
    target = io.BytesIO()
    image.resize((image.width // 4, image.height // 4), Image.Resampling.BOX).save(target, "JPEG", quality=30)
    return Image.open(target).convert("L").resize(image.size, Image.Resampling.BICUBIC)


def _faint(image: Image.Image) -> Image.Image:
    """Thermal paper: little contrast, grain, out of focus."""
    grain = np.random.default_rng(1).normal(0, 14, (image.height, image.width))
    faint = 205 + np.asarray(image.filter(ImageFilter.GaussianBlur(2.5)), float) * 0.15 + grain
    return Image.fromarray(faint.clip(0, 255).astype(np.uint8))


#: How the same page is shown.
LOOKS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda image: image,
    "small": _small,
    "faint": _faint,
}


def _counts(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def main() -> None:
    """Print a line for each look and engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--pages", type=int, default=8)
    given = parser.parse_args()
    truth = [json.loads(line)["text"] for line in (given.corpus / "big" / "scan425.gt.jsonl").read_text().splitlines()]
    engines = {name: make_engine(name, "eng") for name in ENGINES}
    with pypdfium2.PdfDocument(given.corpus / "big" / "scan425.pdf") as document:
        chosen = np.linspace(9, len(document) - 1, given.pages).astype(int).tolist()
        for look, show in LOOKS.items():
            seconds, found, wanted = Counter[str](), Counter[str](), 0
            for index in chosen:
                image = show(document[index].render(scale=300 / 72, grayscale=True).to_pil())
                bitmap = Bitmap(image.width, image.height, image.width, image.tobytes(), 300)
                words = _counts(truth[index])
                wanted += words.total()
                for name, engine in engines.items():
                    start = time.process_time()
                    read = engine.recognise(bitmap, timeout_s=120)
                    seconds[name] += time.process_time() - start
                    found[name] += (words & _counts(" ".join(word.text for word in read))).total()
            for name in ENGINES:
                print(
                    f"{look:9} {name:9} {seconds[name] / given.pages:5.2f} CPU s a page,"
                    f" {seconds[name] / seconds['tesseract']:.2f} × tesseract; {found[name] / wanted:.1%} of the words",
                    flush=True,
                )


if __name__ == "__main__":
    main()
