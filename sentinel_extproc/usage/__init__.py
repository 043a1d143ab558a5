"""Usage records on their way to Zion: durable first, then sealed, then reported.

Vocabulary: a *record* is one exchange; *sealing* sums records into an immutable *item* whose id is
its idempotency key; a *batch* is up to 1000 items in one call; a *row* is one item's result; an
item is *acknowledged* when its row says it was billed, *parked* when nobody knows and a person is
to decide, and a *dead letter* when it was refused for good. Nothing is deleted before it is
acknowledged; then it is *retained* for audit while there is room. Records are numbered without a
gap and *chained* by hashes. An exchange that nobody saw the end of is *unknown*: on record, told,
and never billed.

- ``record``: the contract with the exchange (``UsageRecord``, ``Intent``, ``Ledger``)
- ``chain``, ``rows``, ``sealing``, ``retry``: pure
- ``sql``: the schema, and every statement with a name; ``database`` runs them on the writer's
  thread only, with ``insertion``, ``retention`` and ``migration``; ``reading`` reads beside it
- ``item_queue``: what the reporter takes items from: the outbox, or the stream between the two
- ``outbox``: ``Outbox``, the ``Ledger``: one writer thread, group commit; ``claiming`` chooses what
  goes next, by ``priority`` (pure)
- ``stream``: the shards in Redis, each step a script; ``forwarder``: from the outbox to the stream,
  and back what became of it; ``stream_queue``: the stream as an item queue
- ``reporter``: ``Reporter``, the background task between an item queue and Zion; ``reporting`` has
  its words, ``judging`` what follows from an answer
- ``drain``: the last way of usage; ``orphans``: what dead sidecars had under way

Use::

    outbox = Outbox(
        Path("var/outbox.sqlite3"),
        max_bytes=1 << 30,
        fsync=False,               # True survives power loss, not only kill -9
        split_metrics=False,       # True for Zion's per_metric dialect
    )
    outbox.open()                  # blocks shortly; OutboxError: in use, or not writable
    outbox.check_room()            # Unavailable at 100 %
    await outbox.append(record)    # returns once durable

    reporter = Reporter(
        outbox, client,            # an ItemQueue and a UsageSink (the ZionClient)
        interval_s=1.0,
        batch_size=1000,
        on_ambiguous=OnAmbiguous.RETRY,   # or OnAmbiguous.PARK
    )
    reporter.start()
    result = await reporter.drain(deadline_s=10.0)   # stops it; result.left items stay on disk
    await outbox.aclose()
    reporter.counters, outbox.counters   # plain integers for telemetry
"""
