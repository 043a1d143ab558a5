"""A Lua script from a named file of a package, run by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Sequence
from importlib import resources
from typing import cast

from redis.exceptions import NoScriptError

from .redis import Client


class LuaScript:
    """``<package>/scripts/<name>.lua``.

    Args:
        package: dotted name, as ``sentinel_extproc.zion``.
    """

    def __init__(self, package: str, name: str) -> None:
        folder = resources.files(package) / "scripts"
        self.source = (folder / f"{name}.lua").read_text(encoding="utf-8")
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    async def run(
        self, client: Client, keys: Sequence[str], arguments: Sequence[str | bytes]
    ) -> object:
        """What the script returns; a Redis that doesn't know it is given it. Raises what the
        client raises, and bounds nothing."""
        count, values = len(keys), (*keys, *arguments)
        try:
            return await cast("Awaitable[object]", client.evalsha(self.sha, count, *values))
        except NoScriptError:
            return await cast("Awaitable[object]", client.eval(self.source, count, *values))
