"""``GET /v1/models`` and ``/v1/models/{id}``: free, but only for those who may ask. Pure."""

from __future__ import annotations

from sentinel_extproc.endpoints.base import TokenFree


class Models(TokenFree):
    """Rules for the list of models."""

    def __init__(self) -> None:
        super().__init__("models", billed_requests=0)
