"""The Lua scripts, put together from their named files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

from ..limit import Kind
from . import Line

Kinds = frozenset[Kind]

_MARK = "--@ "


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
        kinds: what the command's lines are. A script defines its functions anew at every call,
            which costs, so that it carries only those that it needs.
    """
    folder = resources.files("sentinel_extproc.limits") / "scripts"
    files = ("common", *sorted(kind.value for kind in kinds), name)
    source = "\n".join(
        _only_for(name, (folder / f"{file}.lua").read_text(encoding="utf-8")) for file in files
    )
    digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, source, digest)


def _only_for(command: str, source: str) -> str:
    """Without the parts between ``--@ <other commands>`` and the next ``--@`` line."""
    kept, wanted = [], True
    for line in source.splitlines():
        if line.lstrip().startswith(_MARK):
            names = line.split(_MARK, 1)[1].split()
            wanted = command in names or "all" in names
        elif wanted:
            kept.append(line)
    return "\n".join(kept)


class ByKinds:
    """The variants of one script, at most one per set of kinds, read when first needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loaded: dict[Kinds, Script] = {}

    def of(self, lines: Iterable[Line]) -> Script:
        """The one for these lines."""
        kinds = frozenset(line.limit.kind for line in lines)
        script = self._loaded.get(kinds)
        if script is None:
            script = self._loaded[kinds] = load(self._name, kinds)
        return script
