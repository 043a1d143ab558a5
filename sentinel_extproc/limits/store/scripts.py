"""The Lua scripts, put together from their named files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

from ..limit import Kind

Kinds = frozenset[Kind]

NUMBERS = {Kind.BUCKET: 1, Kind.RING: 2, Kind.CALENDAR: 3, Kind.CONCURRENCY: 4}
"""How a line names its kind. A set of kinds is a number, too: the bits ``1 << n`` of these."""

_MARK = "--@ "
_LIBRARIES = {
    "reserve": ("common", "lines"),
    "extend": ("common", "lines", "holds"),
    "settle": ("common", "lines", "holds"),
    "bump": ("common",),
    "beat": ("common",),
}
_KINDS_LIBRARIES = {Kind.CALENDAR: ("leases",), Kind.CONCURRENCY: ("leases",)}


@dataclass(frozen=True, slots=True)
class Script:
    """A script as Redis knows it.

    Attributes:
        sha: SHA-1 of ``source``, what EVALSHA takes.
    """

    name: str
    source: str
    sha: str


def load(name: str, kinds: Kinds = frozenset()) -> Script:
    """The script of one command: ``reserve``, ``extend``, ``settle``, ``bump`` or ``beat``.

    Args:
        kinds: what the command's lines are. What a script defines is defined anew at every call,
            which costs, so that it carries only what it needs.
    """
    parts = {kind: _sections(_FILES[kind.value]) for kind in sorted(kinds)}
    libraries = {file: None for kind in parts for file in _KINDS_LIBRARIES.get(kind, ())}
    source = "\n".join(
        (
            *(_FILES[file] for file in (*_LIBRARIES[name], *libraries)),
            *(sections[""] for sections in parts.values()),
            *_with_steps(_FILES[name], parts),
        )
    )
    digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, source, digest)


def _all_files() -> dict[str, str]:
    folder = resources.files("sentinel_extproc.limits") / "scripts"
    needed = (*_LIBRARIES.values(), *_KINDS_LIBRARIES.values())
    names = {*_LIBRARIES, *(one for many in needed for one in many), *Kind}
    return {str(name): (folder / f"{name}.lua").read_text(encoding="utf-8") for name in names}


_FILES = _all_files()
"""Texts by name, read once: a combination of kinds may be needed first when no file can be opened
any more."""


def _sections(source: str) -> dict[str, str]:
    """A kind's steps by name; under no name what stands before them."""
    sections: dict[str, list[str]] = {"": []}
    lines = sections[""]
    for line in source.splitlines():
        if line.startswith(_MARK):
            lines = sections.setdefault(line.removeprefix(_MARK), [])
        else:
            lines.append(line)
    return {name: "\n".join(lines) for name, lines in sections.items()}


def _with_steps(command: str, parts: Mapping[Kind, Mapping[str, str]]) -> Iterator[str]:
    """The command's lines; for each mark the kinds' own steps, of which the line's kind chooses."""
    for line in command.splitlines():
        if not line.lstrip().startswith(_MARK):
            yield line
            continue
        step = line.split(_MARK, 1)[1]
        for number, (kind, sections) in enumerate(parts.items()):
            yield f"{'elseif' if number else 'if'} kind == {NUMBERS[kind]} then"
            yield sections[step]
        if parts:
            yield "end"


class ByKinds:
    """The variants of one script, at most one per set of kinds, made when first needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loaded: dict[int, Script] = {}

    def of(self, kinds: int) -> Script:
        """The one for lines of these kinds."""
        script = self._loaded.get(kinds)
        if script is None:
            these = frozenset(kind for kind, number in NUMBERS.items() if kinds >> number & 1)
            script = self._loaded[kinds] = load(self._name, these)
        return script
