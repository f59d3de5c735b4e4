"""What a document store that is not on this machine can answer with."""

from __future__ import annotations


class StoreAway(OSError):
    """It does not answer, or answers with an error of its own; trying again may help."""


class StoreReadOnly(PermissionError):
    """Its credentials do not allow this; trying again does not help."""
