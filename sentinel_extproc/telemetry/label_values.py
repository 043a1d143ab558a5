"""Label values from outside, kept few and printable: every value is a time series for ever."""

from __future__ import annotations

OTHER = "other"
"""Stands for every value beyond the bound."""

UNKNOWN = "unknown"
"""Stands for a value that isn't there."""

MAX_CHARS = 100


class FirstValues:
    """Lets the first ``most`` distinct values through; all others become ``other``.

    First come, first served is the only order that keeps a series where it is.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._labels: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, value: str | None, *, may_claim: bool = True) -> str:
        """The label for ``value``.

        Args:
            may_claim: whether a new value may take one of the places; false for what anybody can
                invent, so that nobody can fill them all with noise.
        """
        if not value:
            return UNKNOWN
        known = self._labels.get(value)
        if known is not None:
            return known
        if not may_claim or len(self._labels) >= self._most or len(value) > MAX_CHARS:
            return OTHER
        # A lone surrogate, which JSON can express, would make the whole exposition unencodable.
        label = "".join(char if char.isprintable() else "?" for char in value)
        self._labels[value] = label
        return label
