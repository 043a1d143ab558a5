"""A command group that imports a command when it is asked for.

All of ours together take twice the time to import that serving alone does, and memory that a
sidecar would keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import click

Lazy = str | Callable[[], click.Command]
"""Where a command is, as ``module:attribute``, or what makes it."""


class LazyCommands(click.Group):
    """A group that is only told where some of its commands are.

    Args:
        lazy: those, by name.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **more: Any) -> None:
        super().__init__(*args, **more)
        self._lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in order."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now if need be; None: there is none."""
        found = super().get_command(ctx, cmd_name)
        if found is not None or cmd_name not in self._lazy:
            return found
        command = _found(self._lazy[cmd_name])
        self.add_command(command, cmd_name)
        return command


def _found(lazy: Lazy) -> click.Command:
    if not isinstance(lazy, str):
        return lazy()
    module, _, attribute = lazy.partition(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)  # noqa: S101 - each is tested
    return command
