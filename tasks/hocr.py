"""What was read as hOCR 1.2: pages, lines and words with their boxes, as XHTML that other programs take over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from itertools import groupby

from tasks.engines import Word
from tasks.page_results import PageResult

#: What XML cannot hold, however it is escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml">
<head>
<title>{title}</title>
<meta http-equiv="Content-Type" content="text/html; charset=utf-8" />
<meta name="ocr-system" content="celery-progress-ext" />
<meta name="ocr-capabilities" content="ocr_page ocr_line ocrx_word ocrp_wconf" />
<meta name="ocr-number-of-pages" content="{pages}" />
</head>
<body>
"""
TAIL = "</body>\n</html>\n"


def head(document_id: str, pages: int) -> str:
    """What stands before the first page."""
    return _HEAD.format(title=_text(document_id), pages=pages)


def empty_page(number: int) -> str:
    """A page of which nothing is known, so that page n is the n-th."""
    return f'<div class="ocr_page" id="page_{number}" title="bbox 0 0 0 0; ppageno {number - 1}"></div>\n'


def page(result: PageResult) -> str:
    """A page. Boxes are in pixels of the page as displayed; the text that it had before has no boxes, and no class."""
    geometry = result.geometry
    if geometry is None and not result.own_text:
        return empty_page(result.page)
    width, height = (0, 0) if geometry is None else (geometry.width, geometry.height)
    resolution = f"; scan_res {round(result.dpi)} {round(result.dpi)}" if result.dpi else ""
    number = result.page
    title = f"bbox 0 0 {width} {height}; ppageno {number - 1}{resolution}"
    own = "".join(f"<p>{_text(line)}</p>\n" for line in result.own_text.splitlines() if line.strip())
    return f'<div class="ocr_page" id="page_{number}" title="{title}">\n{own}{"".join(_lines(result))}</div>\n'


def _lines(result: PageResult) -> Iterator[str]:
    words = enumerate(result.words_on_bitmap(), start=1)
    for place, (_, found) in enumerate(groupby(words, lambda each: each[1].line), start=1):
        line = list(found)
        box = _box(
            min(word.x0 for _, word in line),
            min(word.y0 for _, word in line),
            max(word.x1 for _, word in line),
            max(word.y1 for _, word in line),
        )
        written = " ".join(_word(result.page, number, word) for number, word in line)
        yield f'<span class="ocr_line" id="line_{result.page}_{place}" title="{box}">{written}</span>\n'


def _word(page_number: int, number: int, word: Word) -> str:
    title = f"{_box(word.x0, word.y0, word.x1, word.y1)}; x_wconf {round(word.confidence)}"
    return f'<span class="ocrx_word" id="word_{page_number}_{number}" title="{title}">{_text(word.text)}</span>'


def _box(x0: int, y0: int, x1: int, y1: int) -> str:
    return f"bbox {x0} {y0} {x1} {y1}"


def _text(text: str) -> str:
    return escape(_NO_XML.sub("\ufffd", text))
