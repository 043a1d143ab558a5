"""Bytes that several connections may hold together. Pure."""

from __future__ import annotations

OVERHEAD_BYTES = 200
"""What a message costs in memory besides itself while it waits. An empty one is 5 bytes on the
wire: within its windows a peer could otherwise have us hold forty times what is counted."""


class Budget:
    """What is held, and the most that may be.

    Attributes:
        held: bytes.
        most: bytes.
    """

    __slots__ = ("held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    @property
    def exceeded(self) -> bool:
        """Whether more is held than may be."""
        return self.held > self.most
