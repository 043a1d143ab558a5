"""Limits that hold: taken before the provider is called, settled after.

Vocabulary: a *limit* is a capacity of some *unit* per period and has a *kind* (``bucket``, ``ring``
or ``calendar``); a *policy* says which limits apply to a request; a *claim* is what one exchange
asks of all of them at once; a *hold* is what it was given; *settling* replaces the hold by what was
really used; *debt* is use beyond the hold, carried forward.

- ``model``: the contract with the rest of the program
- ``limit``: one limit's definition and the arithmetic of its unit, pure
- ``policy``: requests to limits, pure; ``policy_file``: the same from YAML, every fault at once
- ``cost``: money by formula
- ``kinds/``: the three kinds as pure state, used by the in-process store; ``scripts/``: the same
  for Redis
- ``store/``: the ``Store`` contract, ``RedisStore``, ``MemoryStore``, and ``ladder``: what happens
  when Redis does not answer
- ``limiter``: ``StoreLimiter``, the ``Limiter`` that the rest of the program uses
- ``headers``: answer headers, pure

Use::

    client = build_client("redis://127.0.0.1:6379/0", timeout_s=0.025)     # store.connect
    store = RedisStore(client, prefix="sentinel", timeout_s=0.025)         # store.redis
    limiter = StoreLimiter(store, default_policy())                        # limiter, policy
    await limiter.start()            # renews leases, applies settlements; no I/O of its own
    await limiter.ping()             # Unavailable when the store does not answer
    reservation = await limiter.reserve(ReserveRequest(id, subject, predicted))
    limit_headers(reservation.states, degraded=reservation.degraded)       # headers
    await limiter.settle(reservation, actual)   # at once: applied behind the answer, in order
    await limiter.flush()            # until every settlement so far is applied
    await limiter.close()            # flushes (bounded), then closes the store and its client

Optional: ``ReserveRequest.quotas`` (Zion's, as calendar limits), ``.epochs`` (revocation: read them
with ``store.epochs(external_id, ("all", "user", "token:<hash>"))`` when a credential is checked),
``await limiter.grow(reservation, counted)`` -> ``Growth`` while an answer streams; a
``reservation.held.output_tokens`` below the predicted means that the output cap must be lowered.

``LimitExceeded`` already carries these headers and ``Retry-After``.
"""
