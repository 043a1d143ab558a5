"""API keys from the configuration, by hash: an identity source for development and small set-ups.

The configuration holds SHA-256 digests, so reading it gives no key away. That is safe for keys
of full entropy only, which is why ``new_key`` makes them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sentinel_extproc.errors import Forbidden, Unauthenticated
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.profile import check_values

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_FILE_BYTES = 1 << 20


def digest(key: str) -> str:
    """What to write into the configuration for ``key``: SHA-256, 64 lower-case hex digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key() -> str:
    """A new key of 256 random bits."""
    return f"sk-sentinel-{secrets.token_urlsafe(32)}"


class StaticKeys:
    """An ``IdentitySource`` over a table, which can be replaced.

    Args:
        principals: by the key's ``digest``, in upper or lower case.

    Raises:
        ValueError: a digest isn't one, occurs twice, or its principal has no external id.
    """

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        self._principals = self._checked(principals)

    def replace(self, principals: Mapping[str, Principal]) -> bool:
        """Go by this table from now on; whether it is another one than before.

        Raises:
            ValueError: as when built; the table stays as it was.
        """
        before, self._principals = self._principals, self._checked(principals)
        return before != self._principals

    @staticmethod
    def _checked(principals: Mapping[str, Principal]) -> dict[str, Principal]:
        found: dict[str, Principal] = {}
        for text, principal in principals.items():
            name = text.lower()
            if _DIGEST.fullmatch(name) is None:
                # The text isn't repeated: it may be a key that somebody wrote there by mistake.
                raise ValueError("a static key must be given as 64 hex digits of its SHA-256")
            if name in found:
                raise ValueError(f"static key {name[:8]}… is given twice")
            if not principal.external_id.strip():
                raise ValueError(f"static key {name[:8]}… has no external id")
            found[name] = principal
        return found

    async def identify(self, token: str) -> Principal:
        """See ``IdentitySource``."""
        # Looking up a digest tells nothing about a key by its timing.
        principal = self._principals.get(digest(token))
        if principal is None:
            raise Unauthenticated("The API key is not valid.")
        return principal


class StaticKeysError(ValueError):
    """The file can't be used.

    Attributes:
        faults: one line each, without anything that may be a key.
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class _Listed(msgspec.Struct, forbid_unknown_fields=True):
    sha256: str
    external_id: str
    email: str = ""
    user_id: str = ""
    plan: str | None = None


def load_static_keys(file: Path) -> dict[str, Principal]:
    """Read a YAML list of ``{sha256, external_id, email?, user_id?, plan?}``, for ``StaticKeys``.

    Raises:
        StaticKeysError: with every fault.
    """
    try:
        with file.open("rb") as opened:
            body = opened.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise StaticKeysError([str(error.strerror)]) from None
    if len(body) > _MAX_FILE_BYTES:
        raise StaticKeysError([f"larger than {_MAX_FILE_BYTES} bytes"])
    try:
        listed = msgspec.yaml.decode(body, type=list[_Listed])
    except msgspec.ValidationError as error:
        raise StaticKeysError([str(error)]) from None  # names places and types, never values
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise StaticKeysError(["not valid YAML"]) from None
    faults: list[str] = []
    principals: dict[str, Principal] = {}
    for place, key in enumerate(listed, start=1):
        name = key.sha256.lower()
        if _DIGEST.fullmatch(name) is None:
            faults.append(f"key {place}: sha256 must be 64 hex digits, in quotes")
        elif name in principals:
            faults.append(f"key {place}: {name[:8]}… is there twice")
        try:
            check_values(external_id=key.external_id, email=key.email)
        except Forbidden as error:
            faults.append(f"key {place}: {error.code}")
        principals[name] = Principal(
            key.external_id, key.user_id or key.external_id, key.email, key.plan
        )
    if not listed:
        faults.append("there is no key in it")
    if faults:
        raise StaticKeysError(faults)
    return principals
