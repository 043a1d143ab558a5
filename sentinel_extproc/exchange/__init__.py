"""The exchange: one HTTP request and its answer, as a state machine without I/O.

Events come in (messages from Envoy, results of commands, the end of the stream), commands go out
(replies, and things for the driver to do whose results come back as events). In the manner of
sans-I/O libraries, the machine neither reads clocks nor awaits.

Vocabulary: a *message* is one of Envoy's, a *reply* the one answer it must get; an exchange is
*admitted* when its reservation was granted and the request was let through to the provider; to
*settle* is to replace a reservation by what was really used; to *hand back* is to let the rest of
an answer flow unprocessed while the process drains.

- ``events``, ``commands``: frozen values
- ``machine``: the transition table and the invariants
- ``steps``: what is done at each event: the request's half, the answer's, the end
- ``progress``: what an exchange has learnt, which the steps write and others read
- ``headers``: which headers are dropped and set on the way in and out
"""
