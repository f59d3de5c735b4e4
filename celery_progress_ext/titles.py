"""What people call a job, such as a file's name, and what it is found by: without accents, case and odd spacing."""

from __future__ import annotations

import unicodedata

#: The most characters that are kept of a title, and of what it is found by.
LENGTH = 255
#: The most words of a search that are looked for.
_WORDS = 8


def clean(title: str) -> str:
    """A title as the rows hold it: one line without control characters, at most ``LENGTH`` characters.

    What no database takes is replaced: a NUL, and half a surrogate pair from a name that was no Unicode.
    """
    valid = title.encode("utf-8", "replace").decode()
    return " ".join("".join(each if each.isprintable() else " " for each in valid).split())[:LENGTH]


def search_key(title: str) -> str:
    """What a title is found by: ``Brief Müller.PDF`` becomes ``brief muller.pdf``."""
    plain = unicodedata.normalize("NFKD", clean(title).casefold())
    return "".join(each for each in plain if not unicodedata.combining(each))[:LENGTH]


def search_words(text: str) -> list[str]:
    """The parts that a title's key has to contain, all of them, to be found by ``text``."""
    return search_key(text).split()[:_WORDS]
