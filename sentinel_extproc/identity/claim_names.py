"""Which claims of a verified JWT say who the caller is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sentinel_extproc.errors import Forbidden
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.profile import check_values


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Names of claims.

    Attributes:
        external_id: never empty in a usable token.
        email: left empty where the token has none.
        plan: None when tokens don't say.
    """

    external_id: str = "sub"
    email: str = "email"
    plan: str | None = None

    def principal(self, claims: Mapping[str, object]) -> Principal:
        """Whose token it is.

        Raises:
            Forbidden: a claim isn't text, or see ``check_values``.
        """
        external_id = claims.get(self.external_id) or ""
        email = claims.get(self.email) or ""
        plan = claims.get(self.plan) if self.plan is not None else None
        subject = claims.get("sub") or ""
        if (
            not isinstance(external_id, str)
            or not isinstance(email, str)
            or not isinstance(plan, str | None)
            or not isinstance(subject, str)
        ):
            raise Forbidden(
                "A claim of this token that must be text is not.", code="profile_invalid"
            )
        check_values(external_id=external_id, email=email)
        return Principal(
            external_id=external_id, user_id=subject or external_id, email=email, plan=plan
        )
