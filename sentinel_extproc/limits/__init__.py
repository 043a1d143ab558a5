"""Limits that hold: taken before the provider is called, settled after.

Vocabulary: a *limit* is a capacity of some *unit* per period, or at once, and has a *kind*
(``bucket``, ``ring``, ``calendar`` or ``concurrency``); a *policy* says which limits apply to a
request; a *claim* is what one exchange asks of all of them together; a *hold* is what it was given;
*settling* replaces the hold by what was really used; *debt* is use beyond the hold, carried
forward; a *rung* of the *ladder* is how a limit decides while the store is away.

- ``model``: the contract with the rest of the program
- ``limit``: one limit's definition and the arithmetic of its unit, pure
- ``policy``: requests to limits, pure; ``policy_file``: the same from YAML, every fault at once
- ``cost``: money by formula
- ``claims``: requests to claims, verdicts to states and refusals, pure; ``asking``: one request's
  way to a verdict
- ``kinds/``: the kinds as pure state, used by the in-process store; ``scripts/``: the same
  for Redis
- ``store/``: the ``Store`` contract; ``redis`` and ``memory``; ``connect``: clients from URLs;
  ``lane``, ``line``: the one connection of all exchanges; ``turns``: so many commands at once;
  ``packing``: claims as the scripts read them;
  ``ladder``, ``outage``, ``shares``, ``replicas``: what happens when Redis does not answer
- ``settler``: applies settlements behind the answers; ``renewer``: keeps open holds from lapsing
- ``limiter``: ``StoreLimiter``, the ``Limiter`` that the rest of the program uses
- ``headers``: answer headers, pure; ``facts``: what is told to logs and metrics

Use::

    client = build_client("redis://127.0.0.1:6379/0")                      # store.connect
    store = RedisStore(client, prefix="sentinel", timeout_s=0.025)         # store.redis
    problems = await store.complaints()                                    # noeviction?
    ladder = Ladder(store, replicas=ReplicaCounter(store), emit=emit)      # store.ladder, .replicas
    limiter = StoreLimiter(ladder, load_policy(path), emit=emit)           # or default_policy()
    await limiter.start()            # what runs behind the requests
    reservation = await limiter.reserve(ReserveRequest(id, subject, predicted))
    limit_headers(reservation.states, degraded=reservation.degraded)       # headers
    growth = await limiter.grow(reservation, counted)    # while the answer streams
    await limiter.settle(reservation, actual)   # at once: applied behind the answer
    await limiter.flush()            # until every settlement so far is applied
    await limiter.close()            # flushes (bounded), then closes the store and its client

``LimitExceeded`` already carries these headers and ``Retry-After``. Optional in a request:
``quotas`` (Zion's, as calendar limits) and ``epochs`` (revocation, as read by ``store.epochs`` when
the credential was checked). When ``reservation.held.output_tokens`` is below what was predicted,
the provider must be told this lower cap.

Bounds while Redis is away, per limit of L: with ``local``, at most L/2 over all replicas on top of
what was admitted before, and charged as debt when Redis is back before it decides again; of a
quota, half of what was last known to be left. If Redis lost its data, L counts once more. A share
below 1 refuses.
"""
