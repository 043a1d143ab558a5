"""What a server of the ext_proc service is, and how its streams end when something fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sentinel_extproc.exchange.states import ProtocolViolation
from sentinel_extproc.transport.codec import CodecError
from sentinel_extproc.transport.driver import UndecidedEnd
from sentinel_extproc.transport.http2.head import Status
from sentinel_extproc.transport.served import Stream


class ServerError(Exception):
    """The server can't listen where it was told to."""


@dataclass(frozen=True, slots=True)
class Keepalive:
    """HTTP/2 pings towards Envoy, so that a dead peer's streams end.

    Attributes:
        interval_s, timeout_s: seconds between pings, and until an unanswered one is fatal.
    """

    interval_s: float = 30.0
    timeout_s: float = 10.0


KEEPALIVE = Keepalive()


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files for serving TLS.

    Attributes:
        client_ca: only clients with a certificate of these authorities are served; None: any.
    """

    certificate: str
    key: str
    client_ca: str | None = None


class StreamHandler(Protocol):
    """Who answers the streams that a server takes: the driver."""

    @property
    def live(self) -> int:
        """Streams that it serves right now."""
        ...

    def is_hopeless(self, stream: Stream) -> bool:
        """Whether a stream that has just been opened should be ended with an error, unread."""
        ...

    async def run(self, stream: Stream) -> None:
        """Serve one to its end; what it raises ends the RPC with an error."""
        ...

    def hand_back(self) -> None:
        """Let go of every stream at its next message."""
        ...

    def logged(self, exchange_id: str, body_bytes: int) -> None:
        """Envoy's access log has told how long an answer was."""
        ...


class Server(Protocol):
    """Serves ext_proc and grpc.health.v1 on one address."""

    port: int
    """Of the address, once it serves; 0 for a Unix socket."""

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            ServerError: the address or the certificate can't be used.
        """
        ...

    async def drain(self, *, grace_s: float, hand_back_s: float, replaced: bool = False) -> None:
        """End in order: refuse new streams, let running ones finish, then let go of them.

        Args:
            grace_s: for streams to end by themselves; as long as a generation may last.
            hand_back_s: after that, for each stream's next message, at which it is settled and
                its answer flows on without us. What sends none until then is cut.
            replaced: another process serves at this address already.
        """
        ...


TOO_MANY = (Status.RESOURCE_EXHAUSTED, "too many streams")


def failure(fault: Exception) -> tuple[Status, str]:
    """How the stream ends that ``fault`` ended: never well, or Envoy would let the request pass."""
    match fault:
        case UndecidedEnd():
            return Status.CANCELLED, "ended before a decision"
        case CodecError() | ProtocolViolation():
            return Status.INVALID_ARGUMENT, str(fault)
        case _:
            return Status.INTERNAL, "internal fault"  # already told as a fact
