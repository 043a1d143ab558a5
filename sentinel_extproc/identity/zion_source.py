"""Zion as the source of identities: its profile of a token's owner becomes a principal."""

from __future__ import annotations

from typing import Protocol

from sentinel_extproc.errors import Forbidden
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.service import SourceBusy
from sentinel_extproc.zion.answers import Reason, ZionUnavailable
from sentinel_extproc.zion.wire import Profile

MAX_EXTERNAL_ID = 256
MAX_EMAIL = 320  # RFC 5321: 64 before the @ and 255 after it


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
        Forbidden: ``external_id_missing``; it is never replaced by ``id``, because usage billed
            to the wrong id can't be taken back. ``profile_invalid``: a value can't be carried in
            headers and keys.
    """
    external_id = profile.external_id or ""
    if not external_id.strip():
        raise Forbidden(
            "This account has no external id, so its usage can't be billed; "
            "ask the operator to complete the account.",
            code="external_id_missing",
        )
    email = profile.email or ""
    for name, value, most in (
        ("external id", external_id, MAX_EXTERNAL_ID),
        ("email", email, MAX_EMAIL),
    ):
        if len(value) > most or not value.isprintable():
            raise Forbidden(
                f"The {name} of this account is too long or has unprintable characters.",
                code="profile_invalid",
            )
    return Principal(external_id=external_id, user_id=profile.id, email=email)
