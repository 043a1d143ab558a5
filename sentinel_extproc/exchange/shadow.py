"""An exchange that enforces nothing. Pure.

It is the same machine, so that what it finds is what enforcing would find. Only what it says is
changed: every message is let pass as it came, before it is even looked at, and a refusal becomes a
note of who would have been refused. Where Envoy only observes, it isn't answered at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import structs

from sentinel_extproc.errors import LimitExceeded, SentinelError
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.commands import Commands
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.phases import phase_of
from sentinel_extproc.exchange.states import ProtocolViolation, State
from sentinel_extproc.limits.model import Growth

MAX_BODY_BYTES = 16 << 20
"""Of a request's body that is gathered here, as Envoy would do if it were asked to; a longer one
passes unseen."""

_EXHAUSTED = "A limit would have been exhausted while this answer was generated."


class ShadowExchange(Exchange):
    """See the module.

    Args:
        swap: put the provider's key in place of the client's token where a request would have been
            let through; else every request goes upstream with its own.
        given: as for ``Exchange``.
    """

    enforces = False

    def __init__(self, *, swap: bool = False, **given: Any) -> None:
        super().__init__(**given)
        self._swap = swap
        self._observed = False
        self._pieces: list[bytes] = []
        self._gathered = 0
        self._unanswered: do.Reply | None = None
        self._cut_noted = False

    @property
    def swaps(self) -> bool:
        """As told."""
        return self._swap

    @property
    def held(self) -> bytes:
        """Nothing is ever held."""
        return b""

    def handle(self, event: on.Event) -> Commands:
        """Take one event; never refuses, never raises because of one."""
        said = self._pass_on(event)
        if isinstance(event, on.Evicted):
            return said
        if isinstance(event, on.Grown):
            said, event = self._grown(event)
        try:
            if isinstance(event, on.RequestBody):
                whole = self._gather(event)
                return said if whole is None else said + self._quietly(super().handle(whole))
            return said + self._quietly(super().handle(event))
        except ProtocolViolation:
            # A sequence that enforcing doesn't allow; there is nothing to be learnt from it.
            return said + self.give_up()

    def refuse(self, error: SentinelError) -> Commands:
        """Note the refusal, and let the request pass."""
        if self.decided:
            return self.give_up()
        return self._quietly(super().refuse(error))

    def give_up(self) -> Commands:
        """Look no further; what is waiting for an answer passes."""
        self._pieces.clear()
        said = self._answer_now()
        if self.state in (State.RECORDING, State.CUT, State.DONE):
            return said
        if self.decided:  # what was reserved must be settled
            return said + self._quietly(super().handle(on.Disconnected()))
        self.state = State.DONE
        return said

    def _pass_on(self, event: on.Event) -> Commands:
        match event:
            case on.RequestHeaders():
                self._observed = event.observed
                mode = do.Mode.STREAM if event.end_of_stream else do.Mode.STREAM_BOTH
                reply = do.Reply(do.Phase.REQUEST_HEADERS, mode=mode)
            case on.RequestBody():
                reply = do.Reply(do.Phase.REQUEST_BODY)
            case on.ResponseHeaders() | on.ResponseBody() | on.Trailers():
                reply = do.Reply(phase_of(event))
            case _:
                return ()
        if self._observed:
            return ()
        self._unanswered = reply
        if self._swap and reply.phase is do.Phase.REQUEST_HEADERS:
            return ()
        return self._answer_now()

    def _answer_now(self, headers: do.Reply | None = None) -> Commands:
        reply, self._unanswered = self._unanswered, None
        if reply is None:
            return ()
        if headers is not None and headers.phase is reply.phase:
            changes = (headers.set_headers, headers.remove_headers)
            reply = structs.replace(reply, set_headers=changes[0], remove_headers=changes[1])
        return (reply,)

    def _quietly(self, commands: Iterable[do.Command]) -> Commands:
        said: list[do.Command] = []
        for command in commands:
            match command:
                case do.Reply():
                    said += self._answer_now(command)
                case do.Respond(error, _, metadata):
                    said += self._answer_now()
                    said.append(do.Note(error, self.facts | dict(metadata or {})))
                case _:
                    said.append(command)
        return tuple(said)

    def _gather(self, event: on.RequestBody) -> on.RequestBody | None:
        """The whole body at its end; None while it is wanted no more, or not yet whole."""
        if self.state is not State.WAITING_FOR_BODY:
            return event if self.upload is not None else None
        self._gathered += len(event.body)
        if self._gathered > MAX_BODY_BYTES:
            raise ProtocolViolation("a body that is too long to be gathered")
        self._pieces.append(event.body)
        if not event.end_of_stream:
            return None
        whole = b"".join(self._pieces)
        self._pieces.clear()
        return on.RequestBody(whole)

    def _grown(self, event: on.Grown) -> tuple[Commands, on.Event]:
        ending = (Growth.CUT, Growth.DEBT) if self.plan.endless else (Growth.CUT,)
        if event.growth not in ending:
            return (), event
        note: Commands = ()
        if not self._cut_noted:
            self._cut_noted = True
            facts = self.facts | {"decision": "cut"}
            note = (do.Note(LimitExceeded(_EXHAUSTED, code="cut_by_limit"), facts),)
        # The answer goes on, so its metering does too.
        return note, on.Grown(Growth.GROWN)
