"""An answer that Envoy meters, so that it never passes here. Pure."""

from __future__ import annotations

from msgspec import structs

from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange import native
from sentinel_extproc.exchange.commands import Commands
from sentinel_extproc.exchange.phases import phase_of
from sentinel_extproc.exchange.progress import Progress
from sentinel_extproc.exchange.states import State
from sentinel_extproc.exchange.steps import end
from sentinel_extproc.usage.record import Outcome


def told(progress: Progress, event: on.Trailers) -> Commands:
    """An answer that never passed here is over."""
    reply = do.Reply(phase_of(event))
    if not event.of_response:
        return (structs.replace(reply, remove_headers=event.names),)
    reading = None if event.told is None else native.read_told(event.told)
    if reading is None:
        progress.state = State.LOGGING
        return (reply, do.AwaitLog())
    progress.answer.tell(reading)
    return end.finish(progress, Outcome.COMPLETED, reply)


def lost(progress: Progress, event: on.Disconnected) -> Commands:
    """It ended without a word on its usage."""
    progress.cut_short = True
    progress.state = State.LOGGING
    # Of an answer that goes on without us the log would come too late.
    return logged(progress, on.Logged(None)) if progress.handing_back else (do.AwaitLog(),)


def logged(progress: Progress, event: on.Logged) -> Commands:
    """Bill an answer by its length."""
    assert progress.bytes_per_token is not None  # noqa: S101 - what led here
    reading = native.read_bytes(
        progress.plan,
        event.body_bytes,
        reserved=progress.predicted.output_tokens,
        bytes_per_token=progress.bytes_per_token.of(progress.plan.model),
    )
    progress.answer.tell(reading)
    if not progress.cut_short:
        return end.finish(progress, Outcome.COMPLETED)
    return end.finish(progress, Outcome.DRAINED if progress.handing_back else Outcome.DISCONNECTED)
