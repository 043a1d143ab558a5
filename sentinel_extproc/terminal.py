"""Where commands print for people."""

from __future__ import annotations

import os

from rich.console import Console

_WIDE = 200
"""Columns where nobody looks at a screen."""


def console() -> Console:
    """For standard output: as wide as the terminal, and wide where there is none."""
    made = Console()
    return made if made.is_terminal or "COLUMNS" in os.environ else Console(width=_WIDE)
