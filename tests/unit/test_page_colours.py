"""The colours of the page: text 4.5 : 1, what means something 3 : 1, in both schemes (WCAG 1.4.3, 1.4.11)."""

from __future__ import annotations

import re

import pytest

from tests.support.processes import ROOT

_SCHEMES = re.findall(r":root \{(.*?)\}", (ROOT / "web/static/page.css").read_text(), re.DOTALL)
_TEXT = ("text", "quiet", "accent", "good", "warn", "bad")
_GROUNDS = ("card", "ground")


def _colours(scheme: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#\w+);", scheme))


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * each for each in colour[1:])
    parts = (int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", _SCHEMES, ids=["light", "dark"])
def test_contrast(scheme: str) -> None:
    """Texts on what they stand on; edges, bars and cells against what is beside them."""
    colours = _colours(scheme)
    wanted = {(text, ground): 4.5 for text in _TEXT for ground in _GROUNDS}
    wanted |= {(name, f"{name}-ground"): 4.5 for name in ("warn", "bad")}
    wanted |= {("on-accent", "accent"): 4.5}
    wanted |= {("edge", beside): 3.0 for beside in (*_GROUNDS, "track")}
    wanted |= {(bar, "track"): 3.0 for bar in ("accent", "good", "warn", "bad")}
    found = {pair: round(_contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in wanted}
    assert {pair: found[pair] for pair in wanted if found[pair] < wanted[pair]} == {}
