"""Looks up what a running sidecar knows of a user or a token. Takes and changes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from msgspec import structs

from sentinel_extproc.admin.control import Token, read_invalidate, read_user
from sentinel_extproc.endpoints.table import match
from sentinel_extproc.errors import InvalidRequest, SentinelError
from sentinel_extproc.frozen import value
from sentinel_extproc.identity.denylist import DenyList
from sentinel_extproc.identity.principal import Entitlement, EntitlementSource, Principal
from sentinel_extproc.identity.shared import SharedCache
from sentinel_extproc.limits.model import LimitState, Quota, Subject, Unit

DEFAULT_PATH = "/v1/chat/completions"
MICRO = 1_000_000


@value(frozen=True, slots=True)
class Question:
    """Whose limits, and for which requests.

    Attributes:
        plan: where the quotas' authority names none; None: unknown.
    """

    user: str
    path: str = DEFAULT_PATH
    model: str = ""
    plan: str | None = None


class LookUps(Protocol):
    """Answers what operators ask; JSON values."""

    async def limits(self, question: Question) -> dict[str, Any]:
        """Where the limits stand that such a request would meet.

        Raises:
            InvalidRequest, NotFound: there is no such path.
            Unavailable: the limits or the quotas can't be read.
        """
        ...

    async def whoami(self, token: Token) -> dict[str, Any]:
        """Whose token it is, as far as it is remembered; the identity source isn't asked."""
        ...


def read_question(body: bytes) -> Question:
    """``{user, path?, model?, plan?}``.

    Raises:
        InvalidRequest: it isn't that.
    """
    given = read_user(body)
    return Question(given.user, given.path or DEFAULT_PATH, given.model, given.plan)


def read_token(body: bytes) -> Token:
    """``{token_sha256, signed_sha256?}``.

    Raises:
        InvalidRequest: it isn't that.
    """
    target = read_invalidate(body).target
    if not isinstance(target, Token):
        raise InvalidRequest("Name a token by its SHA-256.", param="token_sha256")
    return target


class Peek(Protocol):
    """``StoreLimiter.peek``."""

    async def __call__(
        self, subject: Subject, quotas: tuple[Quota, ...] = ()
    ) -> tuple[LimitState, ...]: ...


class SidecarLookUps:
    """``LookUps`` of a running sidecar.

    Args:
        peek: where limits stand.
        remembered: the principal of a token's SHA-256, if this process has it.
        quotas: None: no other authority keeps any.
        wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        peek: Peek,
        remembered: Callable[[bytes], Principal | None],
        shared: SharedCache,
        denials: DenyList,
        quotas: EntitlementSource | None,
        prefix: str,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._peek = peek
        self._remembered = remembered
        self._shared = shared
        self._denials = denials
        self._quotas = quotas
        self._prefix = prefix
        self._wall_clock = wall_clock

    async def limits(self, question: Question) -> dict[str, Any]:
        """See ``LookUps``."""
        found = match("POST", question.path, prefix=self._prefix)
        entitled = await self._entitled(question.user)
        subject = Subject(
            external_id=question.user,
            path=found.path,
            endpoint=found.endpoint.name,
            model=question.model,
            plan=entitled.plan or question.plan,
        )
        states = await self._peek(subject, entitled.quotas)
        return {
            "user": question.user,
            "plan": subject.plan,
            "path": subject.path,
            "endpoint": subject.endpoint,
            "model": subject.model,
            "limits": [_state(state) for state in states],
        }

    async def whoami(self, token: Token) -> dict[str, Any]:
        """See ``LookUps``."""
        digests = [token.sha256, *([] if token.signed is None else [token.signed])]
        denied = [self._denials.mirrored(one) or await self._denials.denied(one) for one in digests]
        principal, entry = self._remembered(token.sha256), await self._shared.get(token.sha256)
        where = "process" if principal is not None else "shared" if entry is not None else None
        age_s = None
        if entry is not None:
            principal = principal or entry.principal
            age_s = round(max(0.0, self._wall_clock() - entry.checked_at_ms / 1000), 1)
        told: dict[str, Any] = {
            "revoked": True if any(denied) else None if None in denied else False,
            "remembered": where,
            "checked_seconds_ago": age_s,
            "principal": None,
        }
        if principal is None:
            return told
        told["principal"] = {
            "external_id": principal.external_id,
            "user_id": principal.user_id,
            "email": principal.email,
        }
        return told | await self._account(principal)

    async def _account(self, principal: Principal) -> dict[str, Any]:
        try:
            entitled = await self._entitled(principal.external_id)
        except SentinelError as error:
            return {"plan": principal.plan, "quotas": None, "quotas_fault": error.message}
        quotas = [structs.asdict(quota) for quota in entitled.quotas]
        return {"plan": entitled.plan or principal.plan, "quotas": quotas}

    async def _entitled(self, user: str) -> Entitlement:
        if self._quotas is None:
            return Entitlement()
        return await self._quotas.entitlement(Principal(user, "", ""))


Answer = Callable[[bytes], Awaitable[dict[str, Any]]]
"""A question's body to its answer."""


def answers(look_ups: LookUps) -> dict[str, Answer]:
    """What answers each question, by its name in the path."""

    async def limits(body: bytes) -> dict[str, Any]:
        return await look_ups.limits(read_question(body))

    async def whoami(body: bytes) -> dict[str, Any]:
        return await look_ups.whoami(read_token(body))

    return {"limits": limits, "whoami": whoami}


def _state(state: LimitState) -> dict[str, Any]:
    scale = MICRO if state.unit is Unit.COST else 1
    return {
        "name": state.name,
        "unit": state.unit.value,
        "limit": state.limit if scale == 1 else state.limit / scale,
        "remaining": state.remaining if scale == 1 else state.remaining / scale,
        "reset_seconds": round(state.reset_s, 3) if math.isfinite(state.reset_s) else None,
        "shadow": state.shadow,
        "at_once": state.at_once,
    }
