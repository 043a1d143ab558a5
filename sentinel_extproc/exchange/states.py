"""The states of an exchange. Pure."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """Where an exchange stands."""

    # Members are the only ones of their kind; Enum's own hash is a Python function.
    __hash__ = object.__hash__

    START = auto()
    AUTHENTICATING = auto()
    WAITING_FOR_BODY = auto()
    READING = auto()
    COUNTING = auto()
    RESERVING = auto()
    REAUTHENTICATING = auto()
    ADMITTED = auto()
    ANSWERING = auto()
    DIGESTING = auto()
    UNSEEN = auto()
    LOGGING = auto()
    GROWING = auto()
    CLAIMING = auto()
    RECORDING = auto()
    CUT = auto()
    DONE = auto()


class ProtocolViolation(Exception):
    """An event that can't come here. Before admission the driver must abort the stream."""


DECIDED = frozenset(
    {
        State.ADMITTED,
        State.ANSWERING,
        State.DIGESTING,
        State.UNSEEN,
        State.LOGGING,
        State.GROWING,
        State.CLAIMING,
        State.RECORDING,
        State.CUT,
        State.DONE,
    }
)
"""The request was let through or answered."""
