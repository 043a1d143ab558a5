"""Revocation: of a token, a user, or everybody, at every replica's next request.

Two ways, and the first alone suffices: an epoch in Redis is moved, which the reservation compares
with the one that the caller's credential was checked at; and a message tells all replicas to
forget what they cached, which also covers requests that need no reservation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import msgspec
from msgspec import structs

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.identity.denylist import DenyList
from sentinel_extproc.identity.effect import EffectTimes
from sentinel_extproc.identity.shared import SharedCache
from sentinel_extproc.limits.model import Epoch
from sentinel_extproc.limits.store import StoreError
from sentinel_extproc.limits.store.attempts import REDIS_FAULTS
from sentinel_extproc.limits.store.redis import Client

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4096

_PATIENCE_S = 1.0
"""For telling the other replicas; the epoch holds without it."""


class Kind(StrEnum):
    """What is revoked."""

    TOKEN = "token"  # noqa: S105  a kind of thing, not a secret
    USER = "user"
    ALL = "all"


class Revocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is revoked.

    Attributes:
        external_id: the user's; for a token it may be empty, and is then looked up.
        token: SHA-256 of the token, 64 hex digits; for ``Kind.TOKEN`` only.
        streams: end the running answers too; for users and everybody.
        void_only: what is cached is void, and the identity source decides. That is all there is for
            users and everybody; a token is refused from now on unless this is set.
        at_ms: when, in ms since the epoch; set by the revoker.
        signed: SHA-256 of a JWT's ``header.payload`` (``expiry.signed_sha256``), 64 hex digits, so
            that the token is refused in any spelling; looked up when empty.
    """

    kind: Kind
    external_id: str = ""
    token: str = ""
    streams: bool = False
    void_only: bool = False
    at_ms: int = 0
    signed: str = ""

    @property
    def denies(self) -> bool:
        """Whether the token goes on the list of those that are refused."""
        return self.kind is Kind.TOKEN and not self.void_only

    def token_sha256(self) -> bytes:
        """The digest of the token.

        Raises:
            ValueError: it isn't one.
        """
        return _digest(self.token)

    def digests(self) -> tuple[bytes, ...]:
        """All that the token is known by.

        Raises:
            ValueError: one of them isn't a digest.
        """
        return tuple(_digest(text) for text in (self.token, self.signed) if text)


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != 32:
        raise ValueError("a token is revoked by the 64 hex digits of its SHA-256")
    return digest


EndStreams = Callable[[str | None], int]
"""Ends the running answers of a user (external id) or of everybody (None); how many those were."""


class EpochStore(Protocol):
    """Where epochs are kept; the limits' ``RedisStore`` is one. All raise StoreError."""

    async def epochs(self, external_id: str, names: tuple[str, ...]) -> tuple[Epoch, ...]: ...

    async def revoke(self, external_id: str, name: str) -> None: ...

    async def revoke_everybody(self) -> None: ...


class Forgetter(Protocol):
    """A cache to be told; ``CachedAuthenticator`` is one."""

    def forget_token(self, token_sha256: bytes) -> None: ...

    def forget_user(self, external_id: str) -> None: ...

    def forget_all(self) -> None: ...


def token_epoch(token_sha256: bytes) -> str:
    """The name of a token's epoch; half of the digest still can't be hit on purpose."""
    return f"token:{token_sha256.hex()[:32]}"


class StoreEpochs:
    """Implements ``EpochReader`` over an epoch store."""

    def __init__(self, store: EpochStore) -> None:
        self._store = store

    async def epochs(self, external_id: str, *token_sha256: bytes) -> tuple[Epoch, ...]:
        """See ``EpochReader``."""
        try:
            return await self._store.epochs(external_id, _names(token_sha256))
        except StoreError as error:
            raise Unavailable(
                "Whether this API key was revoked can't be checked right now; the request was not "
                "forwarded.",
                code="identity_unavailable",
            ) from error

    def lowest(self, *token_sha256: bytes) -> tuple[Epoch, ...]:
        """See ``EpochReader``."""
        return tuple(Epoch(name, 0) for name in _names(token_sha256))


def _names(digests: tuple[bytes, ...]) -> tuple[str, ...]:
    return ("all", "user", *(token_epoch(digest) for digest in digests))


def whose(revocation: Revocation) -> str | None:
    """Whose running answers a revocation ends: a user's external id, or None for everybody's.

    Raises:
        ValueError: it is about one token, whose streams can't be told apart.
    """
    match revocation.kind:
        case Kind.USER if revocation.external_id:
            return revocation.external_id
        case Kind.ALL:
            return None
        case _:
            raise ValueError("running answers can only be ended for a user or for everybody")


def apply(revocation: Revocation, forgetter: Forgetter) -> None:
    """Forget what a revocation concerns.

    Raises:
        ValueError: it isn't well-formed.
    """
    match revocation.kind:
        case Kind.TOKEN:
            forgetter.forget_token(revocation.token_sha256())
        case Kind.USER if revocation.external_id:
            forgetter.forget_user(revocation.external_id)
        case Kind.ALL:
            forgetter.forget_all()
        case _:
            raise ValueError("a user is revoked by its external id")


@dataclass(frozen=True, slots=True)
class RevocationResult:
    """What a revocation achieved.

    Attributes:
        everywhere: an epoch was moved, so it holds at every replica even if messages are lost.
            False for a token that is in nobody's shared cache and came without its owner.
        heard_by: replicas that the message reached; None when it could not be sent.
    """

    everywhere: bool
    heard_by: int | None


class Revoker:
    """Revokes, for the admin API and the command line.

    Args:
        local: this process' own caches, told directly.
        shared: where a token's owner is looked up; and its entry removed.
        denials: where tokens are put that must be refused from now on.
        channel: of Redis publish/subscribe.
        wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: EpochStore,
        client: Client,
        *,
        local: Forgetter,
        shared: SharedCache | None = None,
        denials: DenyList | None = None,
        channel: str = "sentinel:revocations",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._client = client
        self._local = local
        self._shared = shared
        self._denials = denials
        self._channel = channel
        self._wall_clock = wall_clock

    async def revoke(self, revocation: Revocation) -> RevocationResult:
        """Revoke. Repeating it does no harm.

        Raises:
            ValueError: it isn't well-formed.
            Unavailable: the epoch could not be moved; this replica has forgotten all the same.
        """
        revocation = structs.replace(revocation, at_ms=int(self._wall_clock() * 1000))
        apply(revocation, self._local)
        revocation, owners = await self._looked_up(revocation)
        if revocation.denies and self._denials is not None:
            # Before the epoch: who asks because that has moved must find it on the list.
            for digest in revocation.digests():
                await self._denials.deny(digest)
        everywhere = await self._move(revocation, owners)
        return RevocationResult(everywhere, await self._tell(revocation))

    async def _looked_up(self, revocation: Revocation) -> tuple[Revocation, set[str]]:
        """With what is shared of a token: the spelling-proof digest, and its owners; two when
        whoever asked was mistaken about it."""
        owners = {revocation.external_id}
        if revocation.kind is Kind.TOKEN and self._shared is not None:
            entry = await self._shared.get(revocation.token_sha256())
            if entry is not None:
                owners.add(entry.principal.external_id)
                signed = revocation.signed or entry.signed_sha256.hex()
                revocation = structs.replace(revocation, signed=signed)
        return revocation, owners - {""}

    async def _move(self, revocation: Revocation, owners: set[str]) -> bool:
        try:
            match revocation.kind:
                case Kind.ALL:
                    await self._store.revoke_everybody()
                case Kind.USER:
                    await self._store.revoke(revocation.external_id, "user")
                case Kind.TOKEN:
                    return await self._move_token(revocation, owners)
        except StoreError as error:
            raise Unavailable(
                "The revocation could not be stored: repeat it.", code="revocation_failed"
            ) from error
        return True

    async def _move_token(self, revocation: Revocation, owners: set[str]) -> bool:
        if self._shared is not None:
            await self._shared.remove(revocation.token_sha256())
        for owner in sorted(owners):
            for digest in revocation.digests():
                await self._store.revoke(owner, token_epoch(digest))
        return bool(owners)

    async def _tell(self, revocation: Revocation) -> int | None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer: Any = await self._client.publish(
                    self._channel, msgspec.json.encode(revocation)
                )
            return int(answer)
        except REDIS_FAULTS as error:
            logger.warning("the revocation was not announced: %s", type(error).__name__)
            return None


class RevocationFeed:
    """Hears of revocations at other replicas and forgets. One background task.

    Args:
        client: for this feed alone, without a time-out on reading: a quiet channel is no fault.
        pause_s: longest pause before subscribing again.
        end_streams: ends the running answers of a user, or of everybody (None), here.
        denials: is told of tokens that are refused from now on.
        effect: is told when each revocation was made.
        wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        client: Client,
        forgetters: tuple[Forgetter, ...],
        *,
        channel: str = "sentinel:revocations",
        pause_s: float = 5.0,
        chance: Callable[[], float] = random.random,
        end_streams: EndStreams | None = None,
        denials: DenyList | None = None,
        effect: EffectTimes | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._forgetters = forgetters
        self._end_streams = end_streams
        self._denials = denials
        self._effect = effect or EffectTimes()
        self._wall_clock = wall_clock
        self._channel = channel
        self._pause_s = pause_s
        self._chance = chance
        self._task: asyncio.Task[None] | None = None
        self._told_broken = False
        self.listening = asyncio.Event()
        """Set while subscribed."""
        self.heard = 0

    def start(self) -> None:
        """Start listening."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="revocation-feed")

    async def aclose(self) -> None:
        """Stop listening; the client stays open."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except REDIS_FAULTS as error:
                # Once an outage: whoever was subscribed says so, what fails to subscribe doesn't.
                told = not self._told_broken or self.listening.is_set()
                self._told_broken = True
                level = logging.WARNING if told else logging.DEBUG
                logger.log(level, "the revocation feed broke: %s", type(error).__name__)
            except Exception:
                # Whatever it was: without the feed, what is denied here would lag behind for good.
                logger.exception("the revocation feed broke")
            finally:
                self.listening.clear()
            # What was announced meanwhile is lost, and held by the epochs.
            await asyncio.sleep(self._pause_s * (0.1 + 0.9 * self._chance()))

    async def _listen(self) -> None:
        feed = self._client.pubsub()
        try:
            await feed.subscribe(self._channel)
            async for message in feed.listen():
                if message["type"] == "subscribe":
                    self.listening.set()
                elif message["type"] == "message":
                    self._hear(message["data"])
        finally:
            with contextlib.suppress(*REDIS_FAULTS):
                await feed.aclose()  # type: ignore[no-untyped-call]

    def _hear(self, body: object) -> None:
        try:
            revocation = _decode(body)
            for forgetter in self._forgetters:
                apply(revocation, forgetter)
            if revocation.denies and self._denials is not None:
                for digest in revocation.digests():
                    self._denials.mirror(digest)
            if revocation.streams and self._end_streams is not None:
                self._end_streams(whose(revocation))
        except (ValueError, msgspec.MsgspecError):
            logger.warning("a message on the revocation channel makes no sense")
        else:
            self.heard += 1
            if revocation.at_ms:
                self._effect.applied(revocation.at_ms, self._wall_clock())


def _decode(body: object) -> Revocation:
    if not isinstance(body, bytes) or len(body) > MAX_MESSAGE_BYTES:
        raise ValueError("not a message of ours")
    return msgspec.json.decode(body, type=Revocation)
