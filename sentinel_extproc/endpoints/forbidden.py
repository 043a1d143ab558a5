"""Calls that would hand a client a way around this gateway. Pure."""

from __future__ import annotations

from typing import NoReturn

from sentinel_extproc.endpoints.base import TokenFree
from sentinel_extproc.endpoints.contract import Head
from sentinel_extproc.errors import Forbidden


class DirectAccess(TokenFree):
    """Keys and calls for talking to the provider directly, where nothing is counted.

    ``/v1/realtime/client_secrets``, ``/sessions`` and ``/transcription_sessions`` answer a key that
    works at the provider itself; ``/v1/realtime/calls`` sets up media that doesn't pass here.
    """

    def __init__(self) -> None:
        super().__init__("realtime.direct")

    def plan_head(self, head: Head) -> NoReturn:  # noqa: ARG002
        raise Forbidden(
            "This call gives access past the gateway; connect to /v1/realtime by WebSocket.",
            code="not_through_gateway",
        )
