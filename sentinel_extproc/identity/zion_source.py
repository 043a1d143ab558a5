"""Zion as the source of identities: its profile of a token's owner becomes a principal."""

from __future__ import annotations

from typing import Protocol

from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.profile import check_values
from sentinel_extproc.identity.refreshing import SourceBusy
from sentinel_extproc.zion.answers import Reason, ZionUnavailable
from sentinel_extproc.zion.wire import Profile


class ProfileClient(Protocol):
    """The one call of ``ZionClient`` that is needed here."""

    async def whoami(self, token: str) -> Profile: ...


class ZionSource:
    """Asks Zion who a token belongs to."""

    def __init__(self, client: ProfileClient) -> None:
        self._client = client

    async def identify(self, token: str) -> Principal:
        """See ``IdentitySource``."""
        try:
            profile = await self._client.whoami(token)
        except ZionUnavailable as error:
            if error.reason is Reason.RATE_LIMITED:
                raise SourceBusy(
                    error.message, retry_after_s=error.retry_after_s or 1.0, code=error.code
                ) from None
            raise
        return principal_of(profile)


def principal_of(profile: Profile) -> Principal:
    """The principal of a profile.

    Raises:
        Forbidden: see ``check_values``.
    """
    external_id, email = profile.external_id or "", profile.email or ""
    check_values(external_id=external_id, email=email)
    return Principal(external_id=external_id, user_id=profile.id, email=email)
