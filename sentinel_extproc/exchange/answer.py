"""An answer while it passes: its meter, and where it may be looked at or cut. Pure."""

from __future__ import annotations

from msgspec import structs

from sentinel_extproc.endpoints.contract import CounterFactory, Deferred, Endpoint, Plan, Reading
from sentinel_extproc.endpoints.guarded import GuardedMeter
from sentinel_extproc.endpoints.meters import OpaqueMeter
from sentinel_extproc.endpoints.provider_usage import added
from sentinel_extproc.exchange.events import Headers
from sentinel_extproc.exchange.lines import first_values
from sentinel_extproc.usage.record import TokenUsage

GROW_EVERY_CHARS = 256
"""Generated text between two looks at the reservation: some 60 tokens, the least that it grows by
being several times that."""


HEAVY_CHARS = 8192
"""Text that is counted on the event loop at once: some 3 ms if it is hostile."""


class Answer:
    """Watches one answer.

    Attributes:
        streamed: whether it is one of events, be it one that we can't read.
        event_stream: whether events can be added to it.
        ended: whether all of it was seen, or it is over for the client.
    """

    # How it stands before it begins.
    streamed = False
    event_stream = False
    _meter = GuardedMeter(OpaqueMeter())  # is shown nothing
    _look_at = GROW_EVERY_CHARS
    _claimed: tuple[Deferred, ...] = ()
    ended = False
    _last: Reading | None = None
    _shown = b""
    _left: int | None = None

    @property
    def over(self) -> bool:
        """Whether the client can see that it has all, be the connection's end yet to come: by its
        length, or by its last event."""
        return self._left == 0 or (self._meter.finished and not self._meter.held)

    @property
    def faults(self) -> int:
        """Bugs of the meter that were kept from the client."""
        return self._meter.faults

    @property
    def volume(self) -> int:
        """Characters generated so far, as far as the meter can tell."""
        return self._meter.volume

    @property
    def held(self) -> bytes:
        """Bytes that the client has yet to get."""
        return self._meter.held

    @property
    def rewrites(self) -> bool:
        """Whether the client may get other bytes than the provider sent."""
        return self._meter.rewrites

    def begin(
        self, endpoint: Endpoint, plan: Plan, headers: Headers, counters: CounterFactory
    ) -> None:
        """Choose how to watch it."""
        given = first_values(headers).get
        length = given("content-length", b"")
        self._left = int(length) if length.isdigit() else None
        content_type = given("content-type", b"").strip().lower()
        self.streamed = content_type.startswith(b"text/event-stream")
        encoding = given("content-encoding")
        if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
            self._meter = GuardedMeter(OpaqueMeter())
            return
        self.event_stream = self.streamed or plan.endless
        self._meter = GuardedMeter(
            endpoint.meter(plan, event_stream=self.streamed, counters=counters)
        )

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:
        """Take the next bytes; what the client is to get instead, None for just these."""
        if self._left is not None:
            self._left -= len(chunk)
        body = self._meter.feed(chunk, end=end or self._left == 0)
        self.ended = end or self.over
        self._shown = chunk if body is None else body
        return body

    def end(self) -> None:
        """Nothing more comes; for bodies whose last piece doesn't say so."""
        self.ended = True

    def tell(self, reading: Reading) -> None:
        """What is known from elsewhere of an answer that never passed here."""
        self._last, self.ended = reading, True

    def due(self) -> bool:
        """Whether enough was generated since the last time to look at the reservation."""
        if self._meter.volume < self._look_at:
            return False
        self._look_at = self._meter.volume + GROW_EVERY_CHARS
        return True

    def reading(self) -> Reading:
        """What is known so far, with what was claimed of its deferrals as its usage."""
        # An answer is read twice at its end, once for its deferrals; that may mean megabytes.
        reading = self._last or self._meter.reading()
        if self.ended:
            self._last = reading
        if not self._claimed:
            return reading
        usage = TokenUsage()
        for one in self._claimed:
            usage = added(usage, one.usage or TokenUsage())
        return structs.replace(reading, reported=usage)

    @property
    def heavy(self) -> bool:
        """Whether a reading takes so long that it should be made in a thread first."""
        return self._last is None and self._meter.waiting > HEAVY_CHARS

    def claim(self, claimed: tuple[Deferred, ...]) -> None:
        """Take what is to be billed of the work that the answer tells of."""
        self._claimed = claimed

    def cut(self, end: bytes) -> bytes | None:
        """The bytes last fed, up to the last whole event, with ``end`` in place of the rest.

        Returns:
            None when the client has the first half of an event already: it must be completed
            first, and ``due`` is true again then.
        """
        partial = self._meter.partial
        if partial > len(self._shown):
            self._look_at = 0
            return None
        return self._shown[: len(self._shown) - partial] + end
