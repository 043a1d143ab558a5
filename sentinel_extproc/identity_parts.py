"""The composition root's part about identities: sources, caches, lists, from the settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from sentinel_extproc.config.sections.identity import IdentitySettings, IdentitySourceName
from sentinel_extproc.exchange.intake import Credential, bearer, verified_claims
from sentinel_extproc.identity.claim_names import ClaimNames
from sentinel_extproc.identity.claims import credential_digest, credential_signed_sha256
from sentinel_extproc.identity.claims_source import ClaimsSource
from sentinel_extproc.identity.contract import IdentitySource
from sentinel_extproc.identity.denylist import RedisDenyList
from sentinel_extproc.identity.effect import EffectTimes
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.revocation import StoreEpochs
from sentinel_extproc.identity.service import CachedAuthenticator
from sentinel_extproc.identity.shared import OwnersOnly, RedisSharedCache
from sentinel_extproc.identity.static_keys import StaticKeys, load_static_keys
from sentinel_extproc.identity.zion_source import ZionSource
from sentinel_extproc.limits.store.redis import RedisStore
from sentinel_extproc.zion.client import ZionClient

log = logging.getLogger("sentinel.identity")


@dataclass(frozen=True, slots=True)
class IdentityParts:
    """What the rest needs of them.

    Attributes:
        denials: tokens refused whatever the source says.
        effect: how long revocations took to hold here.
        static_keys: the source, if it is that one.
    """

    authenticator: CachedAuthenticator
    shared: RedisSharedCache
    denials: RedisDenyList
    effect: EffectTimes
    static_keys: StaticKeys | None = None

    def take_static_keys(self, principals: Mapping[str, Principal]) -> None:
        """Go by these keys from the next request on: what is cached of others is forgotten."""
        if self.static_keys is not None and self.static_keys.replace(principals):
            self.authenticator.forget_all()


def identity_parts(
    settings: IdentitySettings,
    *,
    zion: ZionClient,
    store: RedisStore,
    prefix: str,
    budget_s: float,
    redis_answers: Callable[[], bool],
    stack: AsyncExitStack,
) -> IdentityParts:
    """Build them; ``stack`` ends them.

    Args:
        prefix: of keys in Redis.
        budget_s: of one command there.
        redis_answers: without it revocations can't be heard, so that nothing stale is believed
            before the source was asked.

    Raises:
        ValueError: a file or an address changed since the settings were checked.
    """
    client = store.client
    # Under the source's name: what one source said means nothing to another.
    shared = RedisSharedCache(client, prefix=f"{prefix}:{settings.source}", budget_s=budget_s)
    denials = RedisDenyList(
        client, ttl_s=settings.revoked_token_seconds, prefix=prefix, budget_s=budget_s
    )
    effect = EffectTimes()
    asks = settings.source is IdentitySourceName.ZION
    by_claims = settings.source is IdentitySourceName.ENVOY_JWT
    source = _source(settings, zion, stack)
    authenticator = CachedAuthenticator(
        source,
        fresh_s=settings.fresh_seconds,
        jwt_fresh_s=settings.jwt_fresh_seconds,
        stale_s=settings.stale_seconds,
        on_error_s=settings.stale_on_error_seconds,
        max_entries=settings.max_entries,
        shared=shared if asks else OwnersOnly(shared),
        epochs=StoreEpochs(store),
        denials=denials,
        effect=effect,
        digest=credential_digest if by_claims else None,
        signed=credential_signed_sha256 if by_claims else None,
        may_serve_stale=redis_answers,
    )
    stack.push_async_callback(authenticator.aclose)
    keys = source if isinstance(source, StaticKeys) else None
    return IdentityParts(authenticator, shared, denials, effect, keys)


def credential_of(settings: IdentitySettings) -> Credential:
    """How the machine takes a request's credential."""
    if settings.source is IdentitySourceName.ENVOY_JWT:
        return verified_claims(settings.jwt_metadata_name)
    return bearer


def _source(settings: IdentitySettings, zion: ZionClient, stack: AsyncExitStack) -> IdentitySource:
    names = ClaimNames(
        settings.jwt_external_id_claim, settings.jwt_email_claim, settings.jwt_plan_claim
    )
    match settings.source:
        case IdentitySourceName.ZION:
            return ZionSource(zion)
        case IdentitySourceName.JWT:
            if settings.jwks_url is None:
                raise ValueError("identity.jwks_url is needed")
            # Here, for they bring cryptography along, which takes 8 MiB.
            from sentinel_extproc.identity.jwks_cache import JwksCache, JwksEndpoint
            from sentinel_extproc.identity.jwt_source import JwtSource

            endpoint = JwksEndpoint(settings.jwks_url, ca_file=settings.jwks_ca_file)
            stack.push_async_callback(endpoint.aclose)
            return JwtSource(
                JwksCache(endpoint),
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                names=names,
            )
        case IdentitySourceName.ENVOY_JWT:
            return ClaimsSource(
                issuer=settings.jwt_issuer or None,
                audience=settings.jwt_audience or None,
                names=names,
            )
        case IdentitySourceName.STATIC:
            if settings.static_keys_file is None:
                raise ValueError("identity.static_keys_file is needed")
            log.warning("static_keys", extra={"reason": "identity.source: static is for tests"})
            return StaticKeys(load_static_keys(settings.static_keys_file))
