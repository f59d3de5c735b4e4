"""A scan made from nothing: the same pages each time, with exactly known text, and no one's document.

``python -m tasks.sample OUT.pdf --pages N --dpi 200``
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pikepdf
from pikepdf import Array, Dictionary, Name
from PIL import Image, ImageDraw, ImageFilter, ImageFont

_VOCABULARY = (
    "the of and to in that was his he it with is for as had you not be her on at by which have or from this him but "
    "all she they were my are me one their so an said them we who would been will no when there if more out up into "
    "do any your what has man could other than our some very time upon about may its only now like little then can "
    "made should did us such great before must two these see know over much down after first good men letter account "
    "record office report minutes council evidence payment October Thursday Wellington invoice committee resolution"
)
_WORDS = _VOCABULARY.split()

#: A4, in inches.
_WIDTH, _HEIGHT, _MARGIN = 8.27, 11.69, 1.0
_LEADING = 0.24
_TEXT_POINTS = 11
#: What a scanner adds: skew in degrees, blur in inches, grain as a share of black.
_SKEW, _BLUR, _GRAIN = 0.6, 1 / 600, 0.06
_JPEG_QUALITY = 50


def make_sample(out: Path, *, pages: int = 10, dpi: int = 200, seed: int = 0) -> list[str]:
    """Write a scan to ``out``; the answer is what each page says, a line per line of print."""
    texts = []
    with pikepdf.new() as pdf:
        for number in range(1, pages + 1):
            image, lines = sample_page(number, dpi=dpi, seed=seed)
            _append(pdf, image, dpi)
            texts.append("\n".join(lines))
        pdf.save(out, deterministic_id=True)
    return texts


def sample_page(number: int, *, dpi: int = 200, seed: int = 0) -> tuple[Image.Image, list[str]]:
    """Page ``number`` as a scanner would see it, in gray, and its lines."""
    chance = random.Random(f"{seed}/{number}")
    size = round(_WIDTH * dpi), round(_HEIGHT * dpi)
    paper = Image.new("L", size, 255)
    lines = _print(ImageDraw.Draw(paper), number, chance, dpi)
    paper = paper.rotate(chance.uniform(-_SKEW, _SKEW), resample=Image.Resampling.BICUBIC, fillcolor=255)
    paper = paper.filter(ImageFilter.GaussianBlur(_BLUR * dpi))
    grain = Image.frombytes("L", size, chance.randbytes(size[0] * size[1]))
    return Image.blend(paper, grain, _GRAIN), lines


def _print(draw: ImageDraw.ImageDraw, number: int, chance: random.Random, dpi: int) -> list[str]:
    font = ImageFont.load_default(_TEXT_POINTS * dpi / 72)
    words = _prose(chance)
    lines = [f"Page {number} of the sample record"]
    y = _MARGIN
    draw.text((_MARGIN * dpi, y * dpi), lines[0], 0, font=font)
    y += 2 * _LEADING
    while y < _HEIGHT - _MARGIN:
        line = next(words)
        while draw.textlength(longer := f"{line} {next(words)}", font=font) <= (_WIDTH - 2 * _MARGIN) * dpi:
            line = longer
        draw.text((_MARGIN * dpi, y * dpi), line, 0, font=font)
        lines.append(line)
        y += _LEADING
    return lines


def _prose(chance: random.Random) -> Iterator[str]:
    while True:
        word = str(chance.randrange(20, 9999)) if chance.random() < 0.06 else chance.choice(_WORDS)
        if chance.random() < 0.06:
            word = word.capitalize()
        yield word + (chance.choice(",.;") if chance.random() < 0.1 else "")


def gray_jpeg(pdf: pikepdf.Pdf, image: Image.Image) -> pikepdf.Stream:
    """A gray image as an object of a PDF, for a page's content to draw."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return pdf.make_stream(
        file.getvalue(),
        Type=Name.XObject,
        Subtype=Name.Image,
        Width=image.width,
        Height=image.height,
        ColorSpace=Name.DeviceGray,
        BitsPerComponent=8,
        Filter=Name.DCTDecode,
    )


def _append(pdf: pikepdf.Pdf, image: Image.Image, dpi: int) -> None:
    scan = gray_jpeg(pdf, image)
    width, height = round(image.width * 72 / dpi, 2), round(image.height * 72 / dpi, 2)
    page = Dictionary(
        Type=Name.Page,
        MediaBox=Array([0, 0, width, height]),
        Resources=Dictionary(XObject=Dictionary(Scan=scan)),
        Contents=pdf.make_stream(f"q {width} 0 0 {height} 0 0 cm /Scan Do Q".encode()),
    )
    pdf.pages.append(pikepdf.Page(page))


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tasks.sample", description="Make a sample scan.")
    parser.add_argument("out", type=Path, metavar="OUT.pdf")
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--dpi", type=int, default=200)
    arguments = parser.parse_args(argv)
    make_sample(arguments.out, pages=arguments.pages, dpi=arguments.dpi)


if __name__ == "__main__":
    main()
