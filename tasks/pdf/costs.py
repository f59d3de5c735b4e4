"""What pages are expected to cost, from what a file says of them for nothing: the bytes of contents and images.

Bytes foretell the time of a page among pages of the same make: a crowded page takes more of them, and longer to read.
They say nothing across makes: the same page is ten times as large as JPEG as in fax coding. So pages are compared with
pages whose largest image has the same coding, or that have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

#: Seconds grow with this power of the bytes, among pages of one make.
_POWER = 0.85
#: What a page costs that is only looked at, where a page that is read costs 1 on average.
_LOOKED_AT = 0.04
#: Fewer bytes of images on a page with text are rules and logos.
_ORNAMENT = 4_000.0
#: The least that a page of the same make as others is taken to cost, and the most.
_LEAST, _MOST = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class PageWeight:
    """What a file says of a page.

    :ivar drawn: bytes of its contents.
    :ivar images: bytes of its images; one that several pages show counts once, shared by them.
    :ivar coding: of its largest image; ``""`` for a page that is mostly drawn.
    :ivar has_text: whether it carries text.
    """

    drawn: float
    images: float
    coding: str
    has_text: bool

    def to_json(self) -> list[object]:
        """In the order of the fields."""
        return [round(self.drawn), round(self.images), self.coding, int(self.has_text)]

    @classmethod
    def from_json(cls, stored: Sequence[object]) -> PageWeight:
        """:raises ValueError: for what :meth:`to_json` did not make."""
        drawn, images, coding, has_text = stored
        return cls(float(str(drawn)), float(str(images)), str(coding), bool(has_text))


def weights_of(
    contents: Sequence[float], images: Sequence[Iterable[tuple[object, str, float]]], texts: Sequence[bool]
) -> list[PageWeight]:
    """From each page's bytes of contents, its images as (identity, coding, bytes), and whether it has text."""
    shown = [list(page) for page in images]
    users = Counter(image for page in shown for image in {identity for identity, _, _ in page})
    found = []
    for drawn, page, has_text in zip(contents, shown, texts, strict=True):
        sizes = [(size / users[identity], coding) for identity, coding, size in page]
        largest = max(sizes, default=(0.0, ""))
        image_bytes = sum(size for size, _ in sizes)
        found.append(PageWeight(drawn, image_bytes, largest[1] if image_bytes > drawn else "", has_text))
    return found


def page_costs(
    weights: Sequence[PageWeight], *, keeps_text: bool, asks_for: Callable[[int], bool] = lambda page: True
) -> list[float]:
    """What each page is expected to cost; 1 is a page that is read, on average.

    :param keeps_text: pages with text are read only as far as they show images (``skip``, ``redo``).
    :param asks_for: whether a page, counted from 1, is to be looked at.
    """
    bytes_read: dict[int, tuple[str, float]] = {}
    for index, page in enumerate(weights):
        if not asks_for(index + 1):
            continue
        if keeps_text and page.has_text:
            if page.images > _ORNAMENT:
                bytes_read[index] = page.coding, page.images**_POWER
        else:
            bytes_read[index] = page.coding, max(1.0, page.drawn + page.images) ** _POWER
    by_coding: dict[str, list[float]] = {}
    for coding, size in bytes_read.values():
        by_coding.setdefault(coding, []).append(size)
    means = {coding: fmean(sizes) for coding, sizes in by_coding.items()}
    costs = [_LOOKED_AT] * len(weights)
    for index, (coding, size) in bytes_read.items():
        costs[index] += min(max(_LEAST, size / means[coding]), _MOST)
    return costs
