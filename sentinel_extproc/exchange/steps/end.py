"""How an exchange ends: refused, finished, lost. Pure."""

from __future__ import annotations

from msgspec import structs

from sentinel_extproc.errors import CredentialRevoked, SentinelError
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.accounting import access_log, bill, lesson, usage_record
from sentinel_extproc.exchange.commands import Commands
from sentinel_extproc.exchange.intake import kind_of
from sentinel_extproc.exchange.phases import phase_of
from sentinel_extproc.exchange.progress import Progress
from sentinel_extproc.exchange.states import ProtocolViolation, State
from sentinel_extproc.usage.record import Outcome

REVOKED = "The API key was revoked while this answer was generated."


def refuse(progress: Progress, error: SentinelError) -> Commands:
    """Answer with ``error``.

    Raises:
        ProtocolViolation: the request is already at the provider.
    """
    if progress.decided:
        raise ProtocolViolation(f"a refusal in state {progress.state.name}")
    progress.state = State.DONE
    facts = progress.facts | {"decision": "denied", "reason": error.code}
    return (respond(progress, error, facts),)


def respond(
    progress: Progress, error: SentinelError, metadata: dict[str, str | int] | None = None
) -> do.Respond:
    """``error`` in the shape of the API that was called."""
    return do.Respond(error, progress.error_body(error), metadata)


def finish(
    progress: Progress,
    outcome: Outcome,
    reply: do.Reply | do.Respond | None = None,
    *,
    close: bool = False,
    after: State = State.DONE,
) -> Commands:
    """Bill an admitted exchange.

    Args:
        reply: what lets the client see the end; said when the record is durable.
        close: end our stream behind it.
        after: where the exchange stands then.
    """
    reading = progress.answer.reading()
    if reading.failed and outcome is Outcome.COMPLETED:
        outcome = Outcome.PROVIDER_ERROR if not reading.output_tokens else outcome
    if reading.complete and outcome is Outcome.DISCONNECTED:
        outcome = Outcome.COMPLETED
    progress.refine()
    plan, predicted, principal = progress.plan, progress.predicted, progress.principal
    final = bill(plan, predicted, reading, outcome, progress.confidence)
    if (taught := lesson(plan, final)) is not None:
        progress.expected_output.learn(principal.external_id, kind_of(plan), taught)
    last: Commands = ()
    if reply is not None:
        last = (structs.replace(reply, metadata=progress.facts | access_log(final)),)
    progress.last = (*last, do.Close()) if close else last
    progress.after = after
    record = usage_record(
        final,
        plan,
        principal,
        exchange_id=progress.exchange_id,
        occurred_at_ms=progress.started_at_ms,
        request_id=progress.request_id,
        price=progress.price,
    )
    settle = do.Settle(progress.reserved, final.quantities(predicted))
    # Last, so that a fault above isn't taken for a record that is on its way.
    progress.state = State.RECORDING
    return (settle, do.Record(record))


def revoke(progress: Progress) -> Commands:
    """End an admitted exchange whose key no longer counts, in place of its answer."""
    return finish(progress, Outcome.CUT, respond(progress, CredentialRevoked(REVOKED)))


def recorded(progress: Progress, event: on.Recorded) -> Commands:
    """Let the client see the end."""
    progress.state = progress.after
    return progress.last


def lost(progress: Progress, event: on.Disconnected) -> Commands:
    """Client or provider went away under an admitted exchange."""
    return finish(progress, Outcome.DRAINED if progress.handing_back else Outcome.DISCONNECTED)


def left_early(progress: Progress, event: on.Disconnected) -> Commands:
    """Nothing was admitted. The driver hands back a reservation that was on its way."""
    if progress.state not in (State.RECORDING, State.CUT, State.LOGGING):
        progress.state = State.DONE
    return ()


def evict(progress: Progress, event: on.Evicted) -> Commands:
    """Remember to end the answer at the next message."""
    progress.evicted = True
    return ()


def hand_back(progress: Progress, event: on.HandBack) -> Commands:
    """Remember to let go at the next message."""
    progress.handing_back = True
    return ()


def nothing_more(progress: Progress, event: on.Event) -> Commands:
    """Envoy still sends of an answer what it was told not to: let it pass."""
    return (do.Reply(phase_of(event)),)
