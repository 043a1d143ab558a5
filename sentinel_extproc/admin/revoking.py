"""``Control`` over revocation epochs: what the admin port does when it is told to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sentinel_extproc.admin.control import Effect, Everybody, Target, Token, User
from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.identity.revocation import (
    EndStreams,
    Forgetter,
    Kind,
    Revocation,
    RevocationResult,
    whose,
)

Revoke = Callable[[Revocation], Awaitable[RevocationResult]]


class AllForgetters:
    """Several caches as one."""

    def __init__(self, *forgetters: Forgetter) -> None:
        self._forgetters = forgetters

    def forget_token(self, token_sha256: bytes) -> None:
        """See ``Forgetter``."""
        for forgetter in self._forgetters:
            forgetter.forget_token(token_sha256)

    def forget_user(self, external_id: str) -> None:
        """See ``Forgetter``."""
        for forgetter in self._forgetters:
            forgetter.forget_user(external_id)

    def forget_all(self) -> None:
        """See ``Forgetter``."""
        for forgetter in self._forgetters:
            forgetter.forget_all()


class RevokerControl:
    """Implements ``Control``.

    Both calls move the epoch: from then on nothing that was cached of the target before is
    believed, and the identity source is asked. That is all there is to invalidating; revoking a
    token also refuses it from then on, and revoking a user may end the running answers too.

    Args:
        revoke: ``Revoker.revoke``.
        end_streams: None when running answers can't be ended.
    """

    def __init__(self, revoke: Revoke, *, end_streams: EndStreams | None = None) -> None:
        self._revoke = revoke
        self._end_streams = end_streams

    async def revoke(self, target: Target, *, streams: bool) -> Effect:
        """See ``Control``."""
        end = self._end_streams if streams else None
        if streams and (end is None or isinstance(target, Token)):
            raise InvalidRequest(
                "Running answers can only be ended for a user or for everybody."
                if end is not None
                else "Running answers can't be ended here.",
                param="streams",
                code="streams_not_supported",
            )
        revocation = _revocation(target, streams=streams)
        result = await self._revoke(revocation)
        # After the epoch: what starts in between is refused already.
        ended = 0 if end is None else end(whose(revocation))
        return Effect(result.everywhere, result.heard_by, ended)

    async def invalidate(self, target: Target) -> Effect:
        """See ``Control``."""
        result = await self._revoke(_revocation(target, void_only=True))
        return Effect(result.everywhere, result.heard_by)


def _revocation(target: Target, *, streams: bool = False, void_only: bool = False) -> Revocation:
    match target:
        case Token(sha256, owner, signed):
            return Revocation(
                Kind.TOKEN,
                external_id=owner or "",
                token=sha256.hex(),
                signed="" if signed is None else signed.hex(),
                void_only=void_only,
            )
        case User(external_id):
            return Revocation(Kind.USER, external_id=external_id, streams=streams)
        case Everybody():
            return Revocation(Kind.ALL, streams=streams)
