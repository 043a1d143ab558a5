"""One exchange, from its first message to its settled end. No I/O.

Invariants, each with tests in tests/unit/test_exchange_machine.py and
tests/property/test_exchange_property.py:

1. No request reaches the provider before authentication and reservation succeeded: every reply
   before ``ADMITTED`` leaves Envoy waiting for the body; a body that is not kept starts to flow
   with the reply that admits.
2. Every message gets exactly one reply of its own kind, or the exchange ends.
3. The user's token never goes upstream; the client's copies of our headers are removed.
4. Every reservation is settled exactly once.
5. Every admitted exchange leaves exactly one usage record, and the reply that lets the client see
   the end of the answer comes only after that record is durable. An intent is noted before the
   request is let through, so that one whose sidecar dies is known of.
6. A fault in accounting never changes or stalls the client's bytes (``endpoints.guarded``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sentinel_extproc.errors import SentinelError
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.commands import Commands
from sentinel_extproc.exchange.progress import Progress
from sentinel_extproc.exchange.states import ProtocolViolation, State
from sentinel_extproc.exchange.steps import answer, end, request, unseen

Step = Callable[[Progress, Any], Commands]

_STEPS: dict[tuple[State, type[on.Event]], Step] = {
    (State.START, on.RequestHeaders): request.headers,
    (State.START, on.ResponseHeaders): answer.foreign,
    (State.AUTHENTICATING, on.Authenticated): request.authenticated,
    (State.WAITING_FOR_BODY, on.RequestBody): request.body,
    (State.WAITING_FOR_BODY, on.Trailers): request.trailers_without_body,
    (State.WAITING_FOR_BODY, on.ResponseHeaders): answer.instead,
    (State.READING, on.Planned): request.planned,
    (State.COUNTING, on.Counted): request.counted,
    (State.RESERVING, on.Reserved): request.reserved,
    (State.RESERVING, on.Revoked): request.revoked,
    (State.REAUTHENTICATING, on.Authenticated): request.reauthenticated,
    (State.ADMITTED, on.RequestBody): request.uploaded,
    (State.ADMITTED, on.ResponseHeaders): answer.headers,
    (State.ADMITTED, on.Disconnected): end.lost,
    (State.ANSWERING, on.ResponseBody): answer.body,
    (State.ANSWERING, on.RequestBody): request.uploaded,
    (State.ANSWERING, on.Disconnected): end.lost,
    (State.DIGESTING, on.Digested): answer.digested,
    (State.DIGESTING, on.Disconnected): end.lost,
    (State.UNSEEN, on.Trailers): unseen.told,
    (State.UNSEEN, on.RequestBody): request.uploaded,
    (State.UNSEEN, on.Disconnected): unseen.lost,
    (State.LOGGING, on.Logged): unseen.logged,
    (State.GROWING, on.Grown): answer.grown,
    (State.CLAIMING, on.Claimed): answer.claimed,
    (State.CLAIMING, on.Disconnected): end.lost,
    (State.GROWING, on.Disconnected): end.lost,
    (State.CUT, on.ResponseBody): answer.after_cut,
    (State.CUT, on.RequestBody): request.uploaded,
    (State.RECORDING, on.Recorded): end.recorded,
    (State.DONE, on.ResponseHeaders): end.nothing_more,
    (State.DONE, on.ResponseBody): end.nothing_more,
    (State.DONE, on.RequestBody): request.uploaded,
}

_ANYWHERE: dict[type[on.Event], Step] = {
    on.Trailers: answer.trailers,
    on.Disconnected: end.left_early,
    on.Evicted: end.evict,
    on.HandBack: end.hand_back,
}

for _state in State:
    for _kind, _step in _ANYWHERE.items():
        _STEPS.setdefault((_state, _kind), _step)


class Exchange(Progress):
    """The state machine of one exchange."""

    def handle(self, event: on.Event) -> Commands:
        """Take one event.

        Raises:
            ProtocolViolation: it can't happen in this state.
        """
        try:
            step = _STEPS[self.state, type(event)]
        except KeyError:
            violation = f"{type(event).__name__} in state {self.state.name}"
            raise ProtocolViolation(violation) from None
        try:
            return step(self, event)
        except SentinelError as error:
            return self.refuse(error)

    def refuse(self, error: SentinelError) -> Commands:
        """Answer with ``error``, which some command's result was.

        Raises:
            ProtocolViolation: the request is already at the provider.
        """
        return end.refuse(self, error)
