"""Which reply a message must get. Pure."""

from __future__ import annotations

from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.states import ProtocolViolation


def phase_of(event: on.Event) -> do.Phase:
    """The kind of reply that Envoy insists on.

    Raises:
        ProtocolViolation: it is no message of Envoy's.
    """
    match event:
        case on.ResponseHeaders():
            return do.Phase.RESPONSE_HEADERS
        case on.ResponseBody():
            return do.Phase.RESPONSE_BODY
        case on.Trailers(of_response=True):
            return do.Phase.RESPONSE_TRAILERS
        case on.Trailers():
            return do.Phase.REQUEST_TRAILERS
        case _:
            raise ProtocolViolation(f"{type(event).__name__} is not a message")
