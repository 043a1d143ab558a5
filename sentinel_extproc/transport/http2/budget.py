"""Bytes that several connections may hold together. Pure."""

from __future__ import annotations


class Budget:
    """What is held, and the most that may be.

    Attributes:
        held: bytes.
    """

    __slots__ = ("_most", "held")

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    @property
    def exceeded(self) -> bool:
        """Whether more is held than may be."""
        return self.held > self._most
