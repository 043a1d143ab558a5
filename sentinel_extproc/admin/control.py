"""What an operator can do to a running sidecar, and the JSON that asks for it. Pure.

What is *revoked* is trusted no more: from the next request on, everywhere, only the identity
source's own answer counts. What is *invalidated* is asked for anew, because it changed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import msgspec

from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.identity.expiry import signed_sha256

MAX_TOKEN_CHARS = 8 * 1024
MAX_USER_CHARS = 256
MAX_REASON_CHARS = 200
MAX_REPLAYED = 100
"""Ids in one call; with more the body would be too long."""

_ITEM_ID = re.compile(r"[0-9A-Za-z:_-]{1,64}")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True)
class Token:
    """One credential, by its SHA-256.

    Attributes:
        owner: external id of its user, if known: without it, a token that nobody has used lately
            may be unknown to the other replicas.
        signed: of a JWT, what names it whatever its signature is spelt like
            (``identity.expiry.signed_sha256``).
    """

    sha256: bytes
    owner: str | None = None
    signed: bytes | None = None


@dataclass(frozen=True, slots=True)
class User:
    """Everything of one user."""

    external_id: str


@dataclass(frozen=True, slots=True)
class Everybody:
    """Everything of everybody."""


Target = Token | User | Everybody


@dataclass(frozen=True, slots=True)
class Effect:
    """What a call achieved.

    Attributes:
        everywhere: it holds at every replica, even at those that can't be told now.
        replicas: how many were told at once; None when none could be.
        streams: running answers that were ended.
    """

    everywhere: bool
    replicas: int | None = None
    streams: int = 0


class Control(Protocol):
    """Does what the control calls ask for. Repeating a call does no harm."""

    async def revoke(self, target: Target, *, streams: bool) -> Effect:
        """Trust nothing cached about ``target``; with ``streams`` end its running answers too.

        Raises:
            InvalidRequest: this target's streams can't be told apart.
            Unavailable: it is not certain everywhere; repeat it.
        """
        ...

    async def invalidate(self, target: Target) -> Effect:
        """Forget what is cached about ``target``: identity, plan and quotas.

        Raises:
            Unavailable: it could not be done everywhere.
        """
        ...


@dataclass(frozen=True, slots=True)
class RevokeOrder:
    """A revocation as asked for."""

    target: Target
    streams: bool
    reason: str


@dataclass(frozen=True, slots=True)
class InvalidateOrder:
    """An invalidation as asked for."""

    target: Target


class _RevokeBody(msgspec.Struct, forbid_unknown_fields=True):
    token: str | None = None
    token_sha256: str | None = None
    signed_sha256: str | None = None
    owner: str | None = None
    user: str | None = None
    everybody: bool = False
    streams: bool = False
    reason: str = ""


class _InvalidateBody(msgspec.Struct, forbid_unknown_fields=True):
    token_sha256: str | None = None
    signed_sha256: str | None = None
    user: str | None = None
    everybody: bool = False


class UserBody(msgspec.Struct, forbid_unknown_fields=True):
    """A question about a user; what isn't said is empty or None."""

    user: str
    path: str | None = None
    model: str = ""
    plan: str | None = None


class _ReplayBody(msgspec.Struct, forbid_unknown_fields=True):
    ids: list[str]


def read_revoke(body: bytes) -> RevokeOrder:
    """``{token | token_sha256 (signed_sha256?) | user | everybody, owner?, streams?, reason?}``.

    Raises:
        InvalidRequest: it isn't that.
    """
    given = _decode(body, _RevokeBody)
    if given.owner is not None and given.token is None and given.token_sha256 is None:
        raise InvalidRequest("An owner belongs to a token.", param="owner")
    if len(given.reason) > MAX_REASON_CHARS or not given.reason.isprintable():
        raise InvalidRequest(
            f"A reason has at most {MAX_REASON_CHARS} printable characters.", param="reason"
        )
    target = _target(given.token, given.token_sha256, given.owner, given.user, given.everybody)
    return RevokeOrder(_with_signed(target, given.signed_sha256), given.streams, given.reason)


def read_invalidate(body: bytes) -> InvalidateOrder:
    """``{token_sha256 (signed_sha256?) | user | everybody}``.

    Raises:
        InvalidRequest: it isn't that.
    """
    given = _decode(body, _InvalidateBody)
    target = _target(None, given.token_sha256, None, given.user, given.everybody)
    return InvalidateOrder(_with_signed(target, given.signed_sha256))


def read_user(body: bytes) -> UserBody:
    """``{user, path?, model?, plan?}``.

    Raises:
        InvalidRequest: it isn't that.
    """
    given = _decode(body, UserBody)
    _check_user("user", given.user)
    for name, text in (("model", given.model), ("plan", given.plan or "")):
        if len(text) > MAX_USER_CHARS:
            raise InvalidRequest(f"At most {MAX_USER_CHARS} characters.", param=name)
    return given


def read_replay(body: bytes) -> tuple[str, ...]:
    """``{ids}``: of items that wait for a person.

    Raises:
        InvalidRequest: it isn't that.
    """
    ids = _decode(body, _ReplayBody).ids
    if not 1 <= len(ids) <= MAX_REPLAYED:
        raise InvalidRequest(f"Name 1 to {MAX_REPLAYED} ids.", param="ids")
    if any(_ITEM_ID.fullmatch(item_id) is None for item_id in ids):
        raise InvalidRequest("An id has letters, digits and hyphens.", param="ids")
    return tuple(ids)


def describe(target: Target) -> dict[str, str]:
    """A target for logs and answers: a token only by the beginning of its digest."""
    match target:
        case Token(sha256):
            return {"kind": "token", "token_sha256": f"{sha256.hex()[:12]}…"}
        case User(external_id):
            return {"kind": "user", "user": external_id}
        case Everybody():
            return {"kind": "everybody"}


def token_digest(token: str) -> bytes:
    """How tokens are known: SHA-256 of the bytes that follow ``Bearer``.

    Raises:
        InvalidRequest: no token can look like this.
    """
    if len(token) > MAX_TOKEN_CHARS or _TOKEN.fullmatch(token) is None:
        raise InvalidRequest(
            f"A token is visible ASCII without blanks, at most {MAX_TOKEN_CHARS} characters.",
            param="token",
        )
    return hashlib.sha256(token.encode("ascii")).digest()


T = TypeVar("T", _RevokeBody, _InvalidateBody, _ReplayBody, UserBody)


def _decode(body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec names places and types, never values.
        raise InvalidRequest(f"The body can't be used: {error}") from None


def _with_signed(target: Target, signed: str | None) -> Target:
    if signed is None:
        return target
    if not isinstance(target, Token):
        raise InvalidRequest("A signed part belongs to a token.", param="signed_sha256")
    return replace(target, signed=_sha256("signed_sha256", signed))


def _sha256(param: str, text: str) -> bytes:
    if _SHA256.fullmatch(text) is None:
        raise InvalidRequest("A SHA-256 has 64 hexadecimal digits.", param=param)
    return bytes.fromhex(text)


def _target(
    token: str | None, sha256: str | None, owner: str | None, user: str | None, everybody: bool
) -> Target:
    if sum((token is not None, sha256 is not None, user is not None, everybody)) != 1:
        raise InvalidRequest("Name exactly one of: a token, a user, everybody.")
    for name, value in (("user", user), ("owner", owner)):
        if value is not None:
            _check_user(name, value)
    if token is not None:
        return Token(token_digest(token), owner, signed_sha256(token))
    if sha256 is not None:
        return Token(_sha256("token_sha256", sha256), owner)
    return Everybody() if user is None else User(user)


def _check_user(name: str, value: str) -> None:
    if not value.strip() or len(value) > MAX_USER_CHARS or not value.isprintable():
        raise InvalidRequest(
            f"An external id has 1 to {MAX_USER_CHARS} printable characters.", param=name
        )
