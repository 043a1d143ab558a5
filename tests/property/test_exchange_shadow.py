"""Whatever comes in whatever order: shadow mode lets it pass as it is, and settles what it took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.exchange.shadow import ShadowExchange
from tests.property.test_exchange_property import MESSAGES, Driver, Words


@given(st.lists(MESSAGES, max_size=12), st.booleans(), st.booleans())
def test_every_message_passes_unchanged(
    events: list[on.Event], authenticates: bool, reserves: bool
) -> None:
    machine = ShadowExchange(
        exchange_id="x",
        started_at_ms=0,
        choose=only(Upstream((("authorization", b"Bearer sk"),))),
        counters=lambda _: Words(),
    )
    driver = Driver(authenticates, reserves)
    for event in events:
        before = len(driver.replies)
        closed = driver.perform(machine, machine.handle(event))
        replies = driver.replies[before:]
        message = not isinstance(event, on.HandBack | on.Evicted | on.Disconnected)
        assert len(replies) == int(message), "one reply per message"
        for reply in replies:
            assert isinstance(reply, do.Reply)
            assert (reply.set_headers, reply.remove_headers, reply.body) == ((), (), None)
        if closed:
            break
    driver.perform(machine, machine.handle(on.Disconnected()))
    assert driver.settled == driver.recorded
    assert machine.state.name in ("DONE", "RECORDING")
