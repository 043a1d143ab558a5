"""From a bearer token to a principal: checked by a source, remembered within bounds.

Vocabulary: a *source* checks credentials (Zion by default); an answer is *fresh*, then *stale* but
usable while it is checked again, then usable only when the source fails, then gone; a *flight* is
the one running check of a token that all its requests wait for.

- ``bearer``: pure parsing of ``Authorization`` values: ``parse_bearer(values) -> token``
- ``expiry``: pure reading of a JWT's ``exp``, only ever to trust it for less time
- ``cache``: bounded maps with expiry and the periods of freshness, pure; time is an argument
- ``flight``: one look-up per token at a time; ``gate``: few look-ups of invented tokens
- ``refreshing``: the cache that ``quotas`` and ``service`` are made of
- ``shared``: ``RedisSharedCache``, the cache's second level
- ``revocation``: ``Revoker``, ``RevocationFeed``, ``StoreEpochs``; ``effect``: how long they take
- ``denylist``: ``RedisDenyList``, tokens that are refused whatever the source says
- ``quotas``: ``CachedQuotas``, Zion's quotas of a user
- ``names``: the digests that a token is known by, pure
- ``contract``: what the authenticator asks, and what it counts
- ``service``: ``CachedAuthenticator``, the ``Authenticator`` the rest of the program uses
- ``profile``: what every identity's values must be like, pure
- ``zion_source``: ``ZionSource``, the default source
- ``claims``: claims that Envoy verified, as a credential, pure; ``claims_source`` reads them
- ``claim_names``: which claims say who it is, pure
- ``jwt_source``, ``jwks_cache``, ``jwks``: ``JwtSource``, JWTs checked here against a key set
- ``static_keys``: ``StaticKeys``, API keys by hash, for development

Use::

    authenticator = CachedAuthenticator(
        ZionSource(client),
        fresh_s=60.0,          # CACHE_TTL_SECONDS: opaque tokens; jittered down to half
        jwt_fresh_s=60.0,      # JWT_CACHE_TTL_SECONDS: tokens that look like a JWT
        max_entries=10_000,
        shared=RedisSharedCache(redis_client, prefix="sentinel"),   # optional
        epochs=StoreEpochs(redis_store),       # optional: the limits' RedisStore
        denials=RedisDenyList(redis_client, ttl_s=86_400.0),        # optional
        effect=EffectTimes(),                  # optional: read by telemetry
    )
    # or: StaticKeys({digest: Principal(...)})
    # or: JwtSource(JwksCache(JwksEndpoint(url)), issuer="https://...", audience="...")
    principal = await authenticator.authenticate(parse_bearer([b"Bearer ..."]))
    authenticator.forget_token(sha256) / forget_user(external_id) / forget_all()
    await authenticator.recheck(token)   # after a reservation said ``token_revoked``
    revoker = Revoker(redis_store, redis_client, local=authenticator, shared=shared,
                      denials=denials)
    await revoker.revoke(Revocation(Kind.USER, external_id="..."))
    feed = RevocationFeed(client_without_read_timeout, (authenticator,),
                          denials=denials, effect=effect)      # start(), aclose()
    await authenticator.aclose()
    quotas = CachedQuotas(client, fresh_s=60.0)   # an EntitlementSource
"""
