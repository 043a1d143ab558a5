"""What a connection tells of what the peer sent. Pure."""

from __future__ import annotations

from typing import NamedTuple


class CallOpened(NamedTuple):
    """A gRPC call of the method ``path``."""

    stream: int
    path: bytes


class MessageReceived(NamedTuple):
    """A message; pass ``credit`` (bytes, 0 too) to ``taken`` once it is dealt with."""

    stream: int
    data: bytes
    credit: int


class CallEnded(NamedTuple):
    """The peer will send no more messages."""

    stream: int


class CallLost(NamedTuple):
    """The call is gone, nothing can be sent on it any more."""

    stream: int


class Alive(NamedTuple):
    """The peer answered ``ask_alive``."""


class CaughtUp(NamedTuple):
    """What the peer had sent before it heard ``ask_queue`` has been received."""


class PeerLeaves(NamedTuple):
    """The peer will open no more calls here."""


class PeerKnows(NamedTuple):
    """The peer has heard that we leave: no more calls will come."""


Event = (
    CallOpened | MessageReceived | CallEnded | CallLost | Alive | CaughtUp | PeerLeaves | PeerKnows
)
