"""Zion, the user service: profiles, limits and billing over HTTP.

Vocabulary: a *profile* is who a token belongs to, a *metric* one of the three things Zion counts
(input tokens, output tokens, requests), an *increment* one sum of usage to be billed, a *row* its
result. The wire contract has two *dialects*, ``unified`` and ``per_metric``.

- ``wire``: profiles and limits, both dialects to one shape, pure
- ``batches``: increments to rows and back, both dialects, pure
- ``answers``: pure mapping of status, headers and faults to ``errors``
- ``breaker``: pure circuit breaker; time is an argument
- ``shared_breaker``: one for the whole fleet; ``breaker_board``: where replicas post, in Redis, by
  ``scripts/breaker.lua``
- ``tls``: certificates, always verified
- ``client``: the HTTP calls

Use::

    client = ZionClient(
        base_url="http://zion:3000",
        api_key="...",
        dialect=Dialect.UNIFIED,       # or Dialect.PER_METRIC
        deadline_s=2.0,                # whole call, every phase; ``report_deadline_s`` for batches
        ca_file=None,                  # Path of a PEM bundle that replaces the shipped roots
        client_cert_file=None,         # Path, PEM, with client_key_file
        client_key_file=None,
        lookup_board=RedisBoard(redis_client, "lookup"),            # optional
        report_board=RedisBoard(redis_client, "report"),            # optional
    )                                  # ValueError: unusable URL or unreadable certificate
    await client.prime()               # once, before the first call: a restart keeps breakers open
    profile = await client.whoami(token)
    limits = await client.limits(external_id)
    rows = await client.report(increments, batch_key)
    await client.aclose()
"""
