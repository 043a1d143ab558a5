"""The header lines of a message, with an index of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sentinel_extproc.exchange.events import Headers


class Lines(list[tuple[str, bytes]]):
    """The lines of one message in order, indexed once: many steps ask for the same few names.

    Attributes:
        firsts: the first value of each name.
    """

    __slots__ = ("firsts",)

    def __init__(self, lines: Iterable[tuple[str, bytes]]) -> None:
        super().__init__(lines)
        self.firsts = dict(reversed(self))


def first_values(headers: Headers) -> Mapping[str, bytes]:
    """The first value of each name; its length is that of ``headers`` unless a name comes twice."""
    return headers.firsts if isinstance(headers, Lines) else dict(reversed(headers))


def first(headers: Headers, name: str) -> bytes:
    """The first value of ``name``, or empty."""
    return first_values(headers).get(name, b"")


def all_values(headers: Headers, name: str) -> list[bytes]:
    """Every value of ``name``, in order."""
    firsts = first_values(headers)
    if name not in firsts:
        return []
    if len(firsts) == len(headers):
        return [firsts[name]]
    return [value for key, value in headers if key == name]
