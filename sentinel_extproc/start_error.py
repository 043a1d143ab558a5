"""What keeps a sidecar from starting."""

from __future__ import annotations


class StartError(Exception):
    """It can't start as things are; the message says why and what to do."""
