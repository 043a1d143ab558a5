"""Meters that can't hurt the bodies they watch. Pure."""

from __future__ import annotations

from msgspec import structs

from sentinel_extproc.endpoints.contract import Endpoint, Meter, Plan, Reading, Upload
from sentinel_extproc.endpoints.meters import OpaqueMeter, tokens_by_size


class GuardedUpload:
    """Lets a request's body flow, whatever becomes of who watches it.

    Attributes:
        faults: as in :class:`GuardedMeter`.
    """

    def __init__(self, upload: Upload) -> None:
        self.faults = 0
        self._upload = upload

    def feed(self, chunk: bytes) -> None:
        """Show the next bytes, until the first fault."""
        if self.faults:
            return
        try:
            self._upload.feed(chunk)
        except Exception:  # noqa: BLE001 - as below
            self.faults += 1

    def refined(self, endpoint: Endpoint, plan: Plan) -> Plan:
        """What ``endpoint`` makes of what was seen; ``plan`` itself after a fault."""
        if self.faults:
            return plan
        try:
            return endpoint.refined(plan)
        except Exception:  # noqa: BLE001 - as below
            self.faults += 1
            return plan


class GuardedMeter:
    """Turns any fault of ``meter`` into a count by size, and lets the client's bytes flow.

    Attributes:
        faults: how often the meter failed; more than 0 is a bug worth a report.
        rewrites, held: as of the meter, kept here since they are asked for at every piece.
    """

    def __init__(self, meter: Meter) -> None:
        self.faults = 0
        self.rewrites = meter.rewrites
        self.held = b""
        self._meter = meter
        self._broken: Meter | None = None
        self._size = 0

    @property
    def partial(self) -> int:
        return self._meter.partial

    @property
    def finished(self) -> bool:
        return self._meter.finished

    @property
    def volume(self) -> int:
        return self._meter.volume

    @property
    def waiting(self) -> int:
        return self._meter.waiting

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:
        self._size += len(chunk)
        try:
            shown = self._meter.feed(chunk, end=end)
            if self.rewrites:
                self.held = self._meter.held
        except Exception:  # noqa: BLE001 - a parser's bug must not reach the client
            self.faults += 1
            self._broken, self._meter = self._meter, OpaqueMeter()
            self._meter.feed(chunk, end=end)
            shown = self.held + chunk if self.held else None
            self.rewrites, self.held = False, b""
        return shown

    def reading(self) -> Reading:
        before = self._read(self._broken or self._meter)
        if before is None:
            return Reading(output_tokens=tokens_by_size(self._size))
        if self._broken is None or (after := self._read(self._meter)) is None:
            return before
        # What was counted before the fault stands; what came after it is estimated by size.
        total = before.output_tokens + after.output_tokens
        return structs.replace(before, output_tokens=total, exact=False)

    def _read(self, meter: Meter) -> Reading | None:
        try:
            return meter.reading()
        except Exception:  # noqa: BLE001 - nor must it stop the bill
            self.faults += 1
            return None
