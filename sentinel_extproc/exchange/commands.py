"""What an exchange wants done. Structs, as events are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

from msgspec import Struct

from sentinel_extproc.endpoints.contract import CountRequest, Deferred, Endpoint, Head
from sentinel_extproc.errors import SentinelError
from sentinel_extproc.limits.model import Quantities, Reservation, ReserveRequest
from sentinel_extproc.usage.record import Intent, UsageRecord

Metadata = Mapping[str, str | int]
"""Facts for Envoy's access log, under our metadata namespace."""


class Phase(Enum):
    """Which message a reply answers; Envoy insists on the same kind."""

    # Members are the only ones of their kind; Enum's own hash is a Python function.
    __hash__ = object.__hash__

    REQUEST_HEADERS = "request_headers"
    REQUEST_BODY = "request_body"
    REQUEST_TRAILERS = "request_trailers"
    RESPONSE_HEADERS = "response_headers"
    RESPONSE_BODY = "response_body"
    RESPONSE_TRAILERS = "response_trailers"


class Mode(Enum):
    """What Envoy shall send from here on; only meaningful in replies to headers."""

    __hash__ = object.__hash__

    REQUEST_AND_STREAM = "request body buffered, answer streamed"
    HEADERS_ONLY = "no request body, answer's headers only"
    STREAM = "answer streamed"
    TRAILERS_ONLY = "nothing of the answer's body, but its trailers"
    STREAM_BOTH = "request body and answer streamed"
    NOTHING = "nothing more"


class Reply(Struct, frozen=True, gc=False):
    """The answer to one message: let it pass, changed as said.

    Attributes:
        body: replaces the body; None leaves it.
        reroute: Envoy shall choose the route anew, by the headers as they are now.
    """

    phase: Phase
    set_headers: tuple[tuple[str, bytes], ...] = ()
    remove_headers: tuple[str, ...] = ()
    body: bytes | None = None
    mode: Mode | None = None
    metadata: Metadata | None = None
    reroute: bool = False


class Respond(Struct, frozen=True):
    """Answer the client ourselves; nothing reaches the provider.

    Attributes:
        body: ``error`` in the shape of the API that was called.
    """

    error: SentinelError
    body: bytes
    metadata: Metadata | None = None


class Note(Struct, frozen=True):
    """Tell of a refusal that isn't enforced; no reply."""

    error: SentinelError
    metadata: Metadata


class Authenticate(Struct, frozen=True, gc=False):
    """Check the user's token; replied to by ``Authenticated``, or refused.

    Attributes:
        again: past everything cached, because a revocation came in between.
    """

    token: str
    again: bool = False


class Read(Struct, frozen=True, gc=False):
    """Decode the request's body and plan it; replied to by ``Planned``, or refused.

    A command, though it is pure: decoding a large body takes long enough to hold up others.
    """

    endpoint: Endpoint
    body: bytes
    head: Head


class Count(Struct, frozen=True, gc=False):
    """Count the input; replied to by ``Counted``."""

    request: CountRequest


class Reserve(Struct, frozen=True, gc=False):
    """Take from the limits, then note that the request is about to be forwarded; replied to by
    ``Reserved``, or refused.

    Attributes:
        intent: what to note; once reserved, its reserved output is what was granted.
    """

    request: ReserveRequest
    intent: Intent


class Digest(Struct, frozen=True):
    """Count what has come of a large answer, in a thread; replied to by ``Digested``.

    Nothing else may be asked of the exchange meanwhile.
    """

    work: Callable[[], object]


class Grow(Struct, frozen=True, gc=False):
    """Make the reservation cover what has been generated so far; replied to by ``Grown``."""

    reservation: Reservation
    counted: Quantities


class Settle(Struct, frozen=True, gc=False):
    """Replace the reservation by what was used; no reply, off the latency path."""

    reservation: Reservation
    actual: Quantities


class Record(Struct, frozen=True, gc=False):
    """Make the usage record durable; replied to by ``Recorded``."""

    record: UsageRecord


class Claim(Struct, frozen=True, gc=False):
    """Note who owes for work, and find out what of it is to be billed now; gives ``Claimed``."""

    owner: str
    deferrals: tuple[Deferred, ...]


class Confirm(Struct, frozen=True, gc=False):
    """What was claimed is billed; no reply."""

    claimed: tuple[Deferred, ...]


class AwaitLog(Struct, frozen=True, gc=False):
    """Find out how much of the answer the client got; replied to by ``Logged``, which may come
    after the stream's end."""


class Close(Struct, frozen=True, gc=False):
    """End our side of the stream cleanly: the rest of the answer flows without us."""


Command = (
    Reply
    | Respond
    | Note
    | Authenticate
    | Read
    | Count
    | Reserve
    | Digest
    | Grow
    | Settle
    | Record
    | AwaitLog
    | Close
    | Claim
    | Confirm
)

Commands = tuple[Command, ...]
