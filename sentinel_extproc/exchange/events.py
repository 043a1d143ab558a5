"""What can happen to an exchange.

Structs, since each exchange makes many, and C makes these. Those that hold no error, whose
traceback leads anywhere, are nothing for the garbage collector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from sentinel_extproc.endpoints.contract import Deferred, Plan
from sentinel_extproc.errors import SentinelError
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Growth, Quota, Reservation
from sentinel_extproc.tokens.model import Estimate

Headers = Sequence[tuple[str, bytes]]
"""Header lines in order; names in lower case, pseudo headers included."""


class RequestHeaders(Struct, frozen=True, gc=False):
    """The first message of a normal exchange.

    Attributes:
        verified: what Envoy's jwt_authn filter says it has verified, by the names it was told to
            use. It comes as metadata, which unlike headers no client can set.
        route: the name of Envoy's route, where its filter was told to say it.
        observed: Envoy goes by nothing that we reply (``observability_mode``).
    """

    headers: Headers
    end_of_stream: bool
    verified: Mapping[str, object] | None = None
    route: str | None = None
    observed: bool = False


class RequestBody(Struct, frozen=True, gc=False):
    """The whole request body (``BUFFERED``), or a piece of it where we asked for pieces."""

    body: bytes
    end_of_stream: bool = True


class ResponseHeaders(Struct, frozen=True, gc=False):
    """The answer begins; also the first message when an earlier filter answered by itself."""

    headers: Headers
    end_of_stream: bool


class ResponseBody(Struct, frozen=True, gc=False):
    """A piece of the answer; the last one may be empty."""

    body: bytes
    end_of_stream: bool


class Told(Struct, frozen=True, gc=False):
    """What Envoy read of an answer's usage; None for what the provider didn't give."""

    model: str
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Trailers(Struct, frozen=True, gc=False):
    """Trailers of the request or the answer; they end the body they follow.

    Attributes:
        told: with native metering, the usage of the answer.
        names: of the request's, which don't go upstream.
    """

    of_response: bool
    told: Told | None = None
    names: tuple[str, ...] = ()


class Authenticated(Struct, frozen=True, gc=False):
    """Reply to ``Authenticate``.

    Attributes:
        quotas: limits of this caller that another authority keeps.
    """

    principal: Principal
    quotas: tuple[Quota, ...] = ()


class Planned(Struct, frozen=True, gc=False):
    """Reply to ``Read``."""

    plan: Plan


class Counted(Struct, frozen=True, gc=False):
    """Reply to ``Count``."""

    estimate: Estimate


class Reserved(Struct, frozen=True, gc=False):
    """Reply to ``Reserve``.

    Attributes:
        answer_headers: how the limits stand, for the client.
    """

    reservation: Reservation
    answer_headers: tuple[tuple[str, str], ...]


class Revoked(Struct, frozen=True):
    """Reply to ``Reserve``: the credential was revoked since it was checked.

    Attributes:
        error: what to answer if asking again doesn't help.
    """

    error: SentinelError


class Digested(Struct, frozen=True, gc=False):
    """Reply to ``Digest``."""


class Logged(Struct, frozen=True, gc=False):
    """Reply to ``AwaitLog``: bytes of the answer's body that the client got; None: not known."""

    body_bytes: int | None


class Grown(Struct, frozen=True, gc=False):
    """Reply to ``Grow``."""

    growth: Growth


class Claimed(Struct, frozen=True, gc=False):
    """Reply to ``Claim``: what this exchange is to be billed, and nobody else."""

    claimed: tuple[Deferred, ...]


class Recorded(Struct, frozen=True, gc=False):
    """Reply to ``Record``: the record is durable, or storing it failed and was reported."""


class Disconnected(Struct, frozen=True, gc=False):
    """Envoy closed or reset the stream; client and provider can't be told apart."""


class Evicted(Struct, frozen=True, gc=False):
    """The caller was revoked along with what runs: end the answer at the next message."""


class HandBack(Struct, frozen=True, gc=False):
    """The process is ending: let go of the answer at the next message."""


Event = (
    RequestHeaders
    | RequestBody
    | ResponseHeaders
    | ResponseBody
    | Trailers
    | Authenticated
    | Planned
    | Counted
    | Reserved
    | Revoked
    | Digested
    | Grown
    | Logged
    | Claimed
    | Recorded
    | Disconnected
    | Evicted
    | HandBack
)
