"""Words that a file has before anything is read, and which of those that were read are the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks.engines import Word
from tasks.page_results import PageResult

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class OwnWord:
    """A word that the file has already. The box is in pixels of the bitmap; ``counts``: it is among the own text;
    ``layer``: it is invisible, of an earlier OCR.
    """

    text: str
    box: Box
    counts: bool
    layer: bool


def without_repetitions(result: PageResult, own_words: Sequence[OwnWord]) -> PageResult:
    """The result with each word once: what is among the own text goes, what only the file has is marked as there.

    An earlier OCR that counts has read what lies under it, be it in other words.
    """
    if not own_words:
        return result
    layer = [own for own in own_words if own.counts and own.layer]
    by_text: dict[str, list[OwnWord]] = defaultdict(list)
    for own in own_words:
        by_text[_folded(own.text)].append(own)
    words: list[Word] = []
    in_file: list[int] = []
    for word, shown in zip(result.words, result.words_on_bitmap(), strict=True):
        box = (shown.x0, shown.y0, shown.x1, shown.y1)
        same = [own for own in (*by_text.get(_folded(word.text), ()), *layer) if _overlap(box, own.box)]
        if any(own.counts for own in same):
            continue
        if same:
            in_file.append(len(words))
        words.append(word)
    return replace(result, words=tuple(words), in_file=tuple(in_file))


def _folded(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum()) or text


def _overlap(one: Box, other: Box) -> bool:
    """Whether the middle of either box lies in the other one."""
    return _holds(one, other) or _holds(other, one)


def _holds(outer: Box, inner: Box) -> bool:
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3]
