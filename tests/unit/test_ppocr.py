"""PP-OCR beside Tesseract: where lines are, in which order they are read, and when the second engine is asked."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.engines import Bitmap, Word, auto, make_engine
from tasks.engines.ppocr import Box, components, reading_order
from tasks.sample import sample_page


def test_connected_pixels_are_one_box() -> None:
    """Also where they meet further down; what is faint on average, or too thin, is none."""
    seen = np.zeros((20, 30), np.float32)
    seen[2:8, 2:6] = seen[2:8, 12:16] = 0.9  # two legs
    seen[7:10, 2:16] = 0.9  # that meet
    seen[2:8, 22:28] = 0.4  # faint
    seen[15, 2:28] = 0.9  # a hair
    assert list(components(seen, 0.3, 0.5)) == [Box(2, 2, 16, 10)]


def row(y: int, *spans: tuple[int, int]) -> list[Box]:
    return [Box(x0, y, x1, y + 20) for x0, x1 in spans]


def test_a_receipt_is_read_row_by_row() -> None:
    """The prices stand beside what they are for."""
    boxes = [box for y in range(0, 300, 30) for box in row(y, (0, 200), (400, 460))]
    assert list(reading_order(boxes[::-1])) == [row(y, (0, 200), (400, 460)) for y in range(0, 300, 30)]


def test_columns_are_read_one_after_the_other() -> None:
    """Below a headline that stands across them, and above what stands across them again."""
    left, right = (0, 200), (260, 460)
    body = [box for y in range(40, 240, 30) for box in row(y, left, right)]
    boxes = row(0, (0, 460)) + body + row(300, (0, 460))
    order = [line[0] for line in reading_order(boxes[::-1])]
    assert order[0] == row(0, (0, 460))[0]
    assert order[-1] == row(300, (0, 460))[0]
    assert [box.x0 for box in order[1:-1]] == [0] * 7 + [260] * 7


def test_an_empty_page_has_no_order() -> None:
    """And no column has fewer lines than make one."""
    assert list(reading_order([])) == []
    assert list(reading_order(row(0, (0, 200), (260, 460)))) == [row(0, (0, 200), (260, 460))]


def read(text: str, confidence: float) -> list[Word]:
    return [Word(word, 0, 0, 10, 10, confidence, 0) for word in text.split()]


class Answers:
    """An engine that says this, and counts how often it is asked."""

    def __init__(self, words: list[Word]) -> None:
        self.words, self.asked = words, 0

    def recognise(self, bitmap: Bitmap, *, timeout_s: float) -> list[Word]:
        self.asked += 1
        return self.words

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("first", "second", "asked", "taken"),
    [
        (read("good English print", 92), read("g00d", 99), 0, "good English print"),
        (read("g~ od Eng", 40), read("good English print", 99), 1, "good English print"),
        (read("g~ od Eng", 40), read("noise", 60), 1, "g~ od Eng"),
        (read("faint but right words", 69), read("faint but right", 99), 1, "faint but right"),
        ([], read("a sign in a photograph", 97), 1, "a sign in a photograph"),
        ([], [], 1, ""),
    ],
)
def test_the_second_engine_is_asked_where_the_first_is_in_doubt(
    first: list[Word], second: list[Word], asked: int, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And counts where it has more that can be believed."""
    engines = {"tesseract": Answers(first), "ppocr": Answers(second)}
    monkeypatch.setattr(auto, "make_engine", lambda name, language: engines[name])
    engine = auto.make("eng")
    words = engine.recognise(Bitmap(1, 1, 1, b"\xff", 300), timeout_s=1)
    assert " ".join(word.text for word in words) == taken
    assert (engines["tesseract"].asked, engines["ppocr"].asked) == (1, asked)


def test_print_is_read_with_its_places() -> None:
    """The words of a printed page, each where Tesseract finds it too."""
    image, _ = sample_page(1, dpi=150)
    image = image.crop((0, 0, image.width, image.height // 3)).resize((image.width * 2, image.height // 3 * 2))
    bitmap = Bitmap(image.width, image.height, image.width, image.tobytes(), 300)
    found = {}
    for name in ("tesseract", "ppocr"):
        engine = make_engine(name, "eng")
        found[name] = {word.text: word for word in engine.recognise(bitmap, timeout_s=100) if len(word.text) > 4}
        engine.close()
    same = found["tesseract"].keys() & found["ppocr"].keys()
    assert len(same) >= 0.8 * len(found["tesseract"])
    away = [abs(found["tesseract"][text].x0 - found["ppocr"][text].x0) for text in same]
    assert float(np.median(away)) < 15
