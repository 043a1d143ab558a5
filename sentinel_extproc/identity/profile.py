"""What an identity's values must be like, wherever they come from. Pure."""

from __future__ import annotations

from sentinel_extproc.errors import Forbidden

MAX_EXTERNAL_ID = 256
MAX_EMAIL = 320  # RFC 5321: 64 before the @ and 255 after it


def check_values(*, external_id: str, email: str) -> None:
    """Check that an identity can be billed, and carried in headers and keys.

    Raises:
        Forbidden: ``external_id_missing``; it is never replaced by another id, because usage
            billed to the wrong one can't be taken back. ``profile_invalid``: too long, or with
            characters that don't print.
    """
    if not external_id.strip():
        raise Forbidden(
            "This account has no external id, so its usage can't be billed; "
            "ask the operator to complete the account.",
            code="external_id_missing",
        )
    for name, value, most in (
        ("external id", external_id, MAX_EXTERNAL_ID),
        ("email", email, MAX_EMAIL),
    ):
        if len(value) > most or not value.isprintable():
            raise Forbidden(
                f"The {name} of this account is too long or has unprintable characters.",
                code="profile_invalid",
            )
