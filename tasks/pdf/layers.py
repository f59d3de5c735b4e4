"""Optional content ("layers"): what is switched off when a reader opens the document (ISO 32000-1, 8.11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import pikepdf
from pikepdf import Name

#: When content that belongs to several groups is shown, by the policy of its membership dictionary.
_POLICIES: Mapping[str, Callable[[Sequence[bool]], bool]] = MappingProxyType(
    {
        "/AnyOn": lambda on: any(on),
        "/AllOn": lambda on: all(on),
        "/AnyOff": lambda on: not all(on),
        "/AllOff": lambda on: not any(on),
    }
)


class Layers:
    """The layers of a document, as its default configuration has them."""

    def __init__(self, pdf: pikepdf.Pdf) -> None:
        properties = pdf.Root.get("/OCProperties")
        default = properties.get("/D") if isinstance(properties, pikepdf.Dictionary) else None
        known = default if isinstance(default, pikepdf.Dictionary) else pikepdf.Dictionary()
        self._base_on = known.get("/BaseState") != Name.OFF
        self._on, self._off = _groups(known.get("/ON")), _groups(known.get("/OFF"))

    def hides(self, content: object) -> bool:
        """Whether what belongs to this group, or membership dictionary, is not shown."""
        if not isinstance(content, pikepdf.Dictionary):
            return False
        if content.get("/Type") != Name.OCMD:
            return not self._is_on(content)
        groups = content.get("/OCGs")
        members = [*groups] if isinstance(groups, pikepdf.Array) else [groups]
        on = [self._is_on(each) for each in members if isinstance(each, pikepdf.Dictionary)]
        shown = _POLICIES.get(str(content.get("/P", Name.AnyOn)), any)
        return bool(on) and not shown(on)

    def _is_on(self, group: pikepdf.Dictionary) -> bool:
        if self._base_on:
            return group.objgen not in self._off
        return group.objgen in self._on


def _groups(found: object) -> frozenset[tuple[int, int]]:
    if not isinstance(found, pikepdf.Array):
        return frozenset()
    return frozenset(each.objgen for each in found if isinstance(each, pikepdf.Dictionary))
