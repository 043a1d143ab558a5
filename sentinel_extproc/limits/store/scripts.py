"""The Lua scripts, put together from their named files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

_COMMON = ("common.lua", "bucket.lua", "ring.lua", "calendar.lua")


@dataclass(frozen=True, slots=True)
class Script:
    """A script as Redis knows it.

    Attributes:
        sha: SHA-1 of ``source``, what EVALSHA takes.
    """

    name: str
    source: str
    sha: str


def load(name: str) -> Script:
    """The script of one command: ``reserve``, ``extend``, ``settle``, ``bump`` or ``beat``."""
    folder = resources.files("sentinel_extproc.limits") / "scripts"
    source = "\n".join(
        (folder / file).read_text(encoding="utf-8") for file in (*_COMMON, f"{name}.lua")
    )
    digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, source, digest)
