"""What a connection tells of what the peer sent. Pure."""

from __future__ import annotations

import msgspec


class CallOpened(msgspec.Struct, frozen=True, gc=False):
    """A gRPC call of the method ``path``."""

    stream: int
    path: bytes


class MessageReceived(msgspec.Struct, frozen=True, gc=False):
    """A message; pass ``credit`` (bytes, 0 too) to ``taken`` once it is dealt with."""

    stream: int
    data: bytes
    credit: int


class CallEnded(msgspec.Struct, frozen=True, gc=False):
    """The peer will send no more messages."""

    stream: int


class CallLost(msgspec.Struct, frozen=True, gc=False):
    """The call is gone, nothing can be sent on it any more."""

    stream: int


class Alive(msgspec.Struct, frozen=True, gc=False):
    """The peer answered ``ask_alive``."""


class CaughtUp(msgspec.Struct, frozen=True, gc=False):
    """What the peer had sent before it heard ``ask_queue`` has been received."""


class PeerLeaves(msgspec.Struct, frozen=True, gc=False):
    """The peer will open no more calls here."""


class PeerKnows(msgspec.Struct, frozen=True, gc=False):
    """The peer has heard that we leave: no more calls will come."""


Event = (
    CallOpened | MessageReceived | CallEnded | CallLost | Alive | CaughtUp | PeerLeaves | PeerKnows
)
