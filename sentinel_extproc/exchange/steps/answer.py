"""The answer: watched as it passes, held while a limit is asked, cut where it must be. Pure."""

from __future__ import annotations

from msgspec import structs

from sentinel_extproc.errors import LimitExceeded, Unavailable
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.accounting import used
from sentinel_extproc.exchange.commands import Commands
from sentinel_extproc.exchange.headers import to_client
from sentinel_extproc.exchange.lines import first
from sentinel_extproc.exchange.phases import phase_of
from sentinel_extproc.exchange.progress import Progress
from sentinel_extproc.exchange.states import ProtocolViolation, State
from sentinel_extproc.exchange.steps import end
from sentinel_extproc.limits.model import Growth
from sentinel_extproc.usage.record import Outcome

KEY_REFUSED = "provider_key_refused"
"""In ``x-sentinel-error`` and ``reason``: the provider refused our key, not the caller's."""

_EXHAUSTED = "A limit was exhausted while this answer was generated."
_DRAINING = "The gateway is restarting; connect again."


def foreign(progress: Progress, event: on.ResponseHeaders) -> Commands:
    """An earlier filter answered by itself: there is nothing to govern."""
    progress.state = State.DONE
    return (do.Reply(do.Phase.RESPONSE_HEADERS, mode=do.Mode.NOTHING),)


def instead(progress: Progress, event: on.ResponseHeaders) -> Commands:
    """Envoy answers by itself while it collects the body: over its buffer (413), or too slow.

    Raises:
        ProtocolViolation: it is a success, so the request went out behind our back.
    """
    if first(event.headers, ":status")[:1] in (b"4", b"5"):
        return foreign(progress, event)
    raise ProtocolViolation("an answer to a request that was never let through")


def headers(progress: Progress, event: on.ResponseHeaders) -> Commands:
    """Say how the limits stand, and choose how to watch the answer."""
    status = first(event.headers, ":status")
    failed = not status.startswith((b"1", b"2", b"3"))
    if status in (b"401", b"403") and progress.swaps and progress.chosen.upstream.credentials:
        # The client must not take this for a word on its own key, which never got there.
        progress.key_refused = int(status)
        progress.facts["reason"] = KEY_REFUSED
        progress.answer_headers += (("x-sentinel-error", KEY_REFUSED),)
    set_headers, removed = to_client(event.headers, progress.answer_headers, progress.exchange_id)
    reply = do.Reply(do.Phase.RESPONSE_HEADERS, set_headers, removed)
    if event.end_of_stream:
        return end.finish(progress, _outcome(failed=failed), reply)
    if progress.evicted:
        return end.revoke(progress)
    progress.refine()
    if not failed:
        progress.answer.begin(
            progress.match.endpoint, progress.plan, event.headers, progress.counters
        )
    if failed or progress.plan.unwatched:
        # Nothing in the body can change the bill, so Envoy needn't send it.
        return end.finish(
            progress, _outcome(failed=failed), structs.replace(reply, mode=do.Mode.NOTHING)
        )
    if progress.handing_back and progress.plan.endless:
        return end.finish(progress, Outcome.DRAINED, end.respond(progress, Unavailable(_DRAINING)))
    if progress.handing_back:
        return end.finish(
            progress, Outcome.DRAINED, structs.replace(reply, mode=do.Mode.NOTHING), close=True
        )
    if progress.meters_natively:
        progress.state, progress.unseen = State.UNSEEN, True
        # For the access log, by which we find out about a cut answer.
        known = {"exchange_id": progress.exchange_id}
        return (structs.replace(reply, mode=do.Mode.TRAILERS_ONLY, metadata=known),)
    progress.state = State.ANSWERING
    if progress.answer.rewrites:
        reply = structs.replace(reply, remove_headers=(*removed, "content-length"))
    return (reply,)


def body(progress: Progress, event: on.ResponseBody) -> Commands:
    """Watch a piece of the answer pass."""
    answer = progress.answer
    piece = answer.feed(event.body, end=event.end_of_stream)
    progress.waiting = do.Reply(do.Phase.RESPONSE_BODY, body=piece)
    progress.whole = answer.ended
    return _digest(progress) or _passed(progress)


def digested(progress: Progress, event: on.Digested) -> Commands:
    """Go on with what the digest was for."""
    progress.state = State.ANSWERING
    return _passed(progress)


def _digest(progress: Progress) -> Commands:
    # What comes as one is looked at only when it is whole.
    if not progress.answer.heavy or not (progress.whole or progress.answer.event_stream):
        return ()
    progress.state = State.DIGESTING
    return (do.Digest(progress.answer.reading),)


def _passed(progress: Progress) -> Commands:
    """Whether the piece that is waiting may go on to the client, and what else is due."""
    reply = progress.waiting
    if progress.whole:
        return _complete(progress)
    if progress.evicted:
        return _cut(progress, end.REVOKED)
    if progress.handing_back and progress.plan.endless:
        # Without us it would go on for ever, unmetered.
        return _cut(progress, _DRAINING, Outcome.DRAINED)
    if progress.handing_back:
        if reply.body is not None:
            reply = structs.replace(reply, body=reply.body + progress.answer.held)
        return end.finish(progress, Outcome.DRAINED, reply, close=True)
    if not progress.answer.due():
        return (reply,)
    progress.state = State.GROWING
    usage = used(progress.plan, progress.predicted, progress.answer.reading())
    counted = structs.replace(
        progress.predicted, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens
    )
    return (do.Grow(progress.reserved, counted),)


def _complete(progress: Progress) -> Commands:
    """The answer came to its end, and ``waiting`` lets the client see it."""
    if deferrals := progress.answer.reading().deferrals:
        progress.state = State.CLAIMING
        return (do.Claim(progress.principal.external_id, deferrals),)
    return end.finish(progress, Outcome.COMPLETED, progress.waiting)


def claimed(progress: Progress, event: on.Claimed) -> Commands:
    """Bill what the answer tells of, and what wasn't billed yet."""
    progress.answer.claim(event.claimed)
    commands = end.finish(progress, Outcome.COMPLETED, progress.waiting)
    if event.claimed:
        # In front of the reply, at which the client may be gone.
        progress.last = (do.Confirm(event.claimed), *progress.last)
    return commands


def grown(progress: Progress, event: on.Grown) -> Commands:
    """Go on, or end the answer because a limit ran out under it."""
    progress.state = State.ANSWERING
    # Debt has no end where the answer has none.
    ending = (Growth.CUT, Growth.DEBT) if progress.plan.endless else (Growth.CUT,)
    if event.growth in ending:
        return _cut(progress, _EXHAUSTED)
    return (progress.waiting,)


def _cut(progress: Progress, why: str, outcome: Outcome = Outcome.CUT) -> Commands:
    if not progress.answer.event_stream:
        # Nothing can be added to such an answer that its reader would understand.
        return end.finish(progress, outcome, end.respond(progress, LimitExceeded(why)))
    piece = progress.answer.cut(progress.match.endpoint.cut(why))
    if piece is None:
        return (progress.waiting,)
    return end.finish(
        progress, outcome, structs.replace(progress.waiting, body=piece), after=State.CUT
    )


def after_cut(progress: Progress, event: on.ResponseBody) -> Commands:
    """The client has its last event; stop the provider at the first sign of life."""
    progress.state = State.DONE
    if event.end_of_stream:
        return (do.Reply(do.Phase.RESPONSE_BODY, body=b""),)
    return (end.respond(progress, LimitExceeded(_EXHAUSTED)),)


def trailers(progress: Progress, event: on.Trailers) -> Commands:
    """Trailers end the body that they follow."""
    if event.of_response and progress.state in (State.ADMITTED, State.ANSWERING):
        progress.waiting, progress.whole = do.Reply(do.Phase.RESPONSE_TRAILERS), True
        progress.answer.end()
        return _digest(progress) or _passed(progress)
    if not event.of_response and "decision" not in progress.facts:
        raise ProtocolViolation("request trailers before a decision")
    # A server may take trailers for headers that nobody looked at.
    return (do.Reply(phase_of(event), remove_headers=event.names),)


def _outcome(*, failed: bool) -> Outcome:
    return Outcome.PROVIDER_ERROR if failed else Outcome.COMPLETED
