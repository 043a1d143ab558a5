"""What watching key files tells. Never a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeysTaken:
    """A changed file's keys are in use from now on.

    Attributes:
        keys: how many there are.
    """

    provider: str
    keys: int


@dataclass(frozen=True, slots=True)
class KeysRefused:
    """A file can't be used as it is now; the keys that it held before stay in use."""

    provider: str
    reason: str


CredentialFact = KeysTaken | KeysRefused

EmitCredentialFact = Callable[[CredentialFact], None]
"""Takes a fact; must be quick and must not raise."""
