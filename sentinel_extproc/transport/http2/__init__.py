"""gRPC over HTTP/2 for one kind of client, Envoy: the server's side, as little of it as that needs.

Why not grpcio: half of what an empty processor costs there is the hand-over between its threads and
the event loop (docs/benchmarks.md has the figures). Here a message is parsed on the loop's thread.

- ``frames``: frame layout and the frames that we send. Pure.
- ``head``: header blocks; what a call asks for, how it ends. Pure.
- ``calls``: gRPC's messages out of DATA frames, flow control of one call. Pure.
- ``connection``: ``Connection``, bytes in, events out, bytes to send. Pure (sans-IO, as h11).
- ``sending``: the half of it that answers, and both sides' windows. Pure.
- ``events``: what it tells. Pure.
- ``protocol``: the asyncio edge: sockets, tasks, time-outs.

RFC 9113 is HTTP/2, RFC 7541 HPACK; "PROTOCOL-HTTP2" is gRPC's own specification.
"""
