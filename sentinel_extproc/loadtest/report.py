"""What a test found, for every way of showing it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .histogram import RELATIVE_ERROR, Histogram
from .outcome import Result
from .scenario import Scenario
from .tally import Bin, Sums, Tally

BUSY_SHARE = 0.8
"""With more of a core than that, the generator itself is part of what is measured."""
LATE_S = 0.05

_OPEN = (
    "Open model: requests arrive at their rate whatever the gateway does, and waiting counts from "
    "the arrival, so a slow gateway can't hide by slowing the test down (no coordinated omission)."
)
_CLOSED = (
    "Closed model: each user waits for an answer before asking again, so a slow gateway is asked "
    "less often, and its slow moments weigh less than strangers would feel them (coordinated "
    "omission). The open model has no such thing."
)
SHOWN = ("p50", "p75", "p90", "p95", "p99", "p99.9")

FORMAT = 1
"""Of the JSON; raised when a field changes its meaning."""


@dataclass(frozen=True, slots=True)
class Times:
    """Durations of one sort."""

    histogram: Histogram

    def at(self, name: str) -> float | None:
        """Seconds: ``mean``, ``max`` or ``p99``; None without values."""
        if name == "mean":
            return self.histogram.mean_s()
        if name == "max":
            return self.histogram.maximum_s if self.histogram.count else None
        return self.histogram.percentile_s(float(name[1:]))

    def plain(self) -> dict[str, float | int | None]:
        """For JSON, in seconds."""
        names = ("mean", *SHOWN, "max")
        return {"count": self.histogram.count} | {f"{n}_s": self.at(n) for n in names}


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of request, or all.

    Attributes:
        rps: requests per second that went well, while requests were sent.
        tokens_per_s: output tokens, of those.
        untold: of all that went well, how many had their tokens counted by their events.
    """

    name: str
    requests: int
    ok: int
    refused: int
    failed: int
    left: int
    cut: int
    rps: float
    tokens_per_s: float
    output_tokens: int
    untold: int
    ttft: Times
    gap: Times
    total: Times
    lag: Times
    statuses: Mapping[int, int]
    reasons: Mapping[str, int]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        times = ("ttft", "gap", "total", "lag")
        found = {name: getattr(self, name) for name in self.__slots__ if name not in times}
        found["statuses"] = {str(status): n for status, n in self.statuses.items()}
        return found | {name: getattr(self, name).plain() for name in times}


@dataclass(frozen=True, slots=True)
class Generator:
    """How the one who measures was doing.

    Attributes:
        cpu_share: of one core.
        delay: how much later than meant its own clock ticked.
    """

    cpu_share: float
    delay: Times


@dataclass(frozen=True, slots=True)
class Report:
    """All of it.

    Attributes:
        started_at: ISO 8601, UTC.
        lasted_s: from the beginning to the last answer.
        ended_by: ``duration``, ``max_requests`` or ``interrupted``.
    """

    scenario: Scenario
    users: int
    started_at: str
    lasted_s: float
    ended_by: str
    all: Row
    kinds: tuple[Row, ...]
    bin_s: int
    bins: tuple[Bin, ...]
    not_sent: int
    held_back: int
    generator: Generator

    def notes(self) -> list[str]:
        """What a reader must know to read the numbers right."""
        load = self.scenario.load
        if load.model == "open":
            found = [_OPEN]
            if self.not_sent:
                found.append(
                    f"{self.not_sent} arrivals were not sent before the end: at most "
                    f"{load.max_concurrency} requests run at once, and the rest waits in line. The "
                    "waiting that is shown is too short."
                )
        else:
            found = [_CLOSED]
        if self.held_back:
            found.append(
                f"{self.held_back} arrivals were held back: every user had been told by a 429 "
                "to come back later (Retry-After)."
            )
        if self.generator.cpu_share > BUSY_SHARE:
            found.append(
                f"The load generator used {self.generator.cpu_share:.0%} of a core: part of the "
                "waiting is its own. Use a lower rate, or several generators."
            )
        if (delay := self.generator.delay.at("p99")) is not None and delay > LATE_S:
            found.append(
                f"The load generator's own clock was late by {delay * 1e3:.0f} ms in one of 100 "
                "looks: this machine was busy, and the waiting that is shown includes it."
            )
        if self.all.untold:
            found.append(
                f"{self.all.untold} answers did not say their output tokens: their events with "
                "text were counted instead."
            )
        if self.all.cut:
            found.append(f"{self.all.cut} requests were still running at the end and were cut.")
        return found

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": FORMAT,
            "target": self.scenario.target,
            "started_at": self.started_at,
            "lasted_s": self.lasted_s,
            "ended_by": self.ended_by,
            "users": self.users,
            "load": self.scenario.load.model_dump(mode="json"),
            "seed": self.scenario.seed,
            "relative_error": RELATIVE_ERROR,
            "not_sent": self.not_sent,
            "held_back": self.held_back,
            "generator": {
                "cpu_share": self.generator.cpu_share,
                "delay": self.generator.delay.plain(),
            },
            "all": self.all.plain(),
            "kinds": [row.plain() for row in self.kinds],
            "bin_s": self.bin_s,
            "bins": [_plain(bin_) for bin_ in self.bins],
            "notes": self.notes(),
        }


def make_report(
    scenario: Scenario,
    tally: Tally,
    *,
    users: int,
    started_at: str,
    lasted_s: float,
    ended_by: str,
    generator: Generator,
) -> Report:
    """The report of a test that has ended."""
    span = min(lasted_s, scenario.load.duration)
    kinds = (_row(name, sums, span) for name, sums in tally.kinds.items())
    return Report(
        scenario=scenario,
        users=users,
        started_at=started_at,
        lasted_s=lasted_s,
        ended_by=ended_by,
        all=_row("all", tally.all, span),
        kinds=tuple(kinds),
        bin_s=tally.bin_s,
        bins=tuple(tally.bins()),
        not_sent=tally.not_sent,
        held_back=tally.held_back,
        generator=generator,
    )


def _row(name: str, sums: Sums, span: float) -> Row:
    span = max(span, 1e-9)
    found = sums.results
    return Row(
        name=name,
        requests=found.total(),
        ok=found[Result.OK],
        refused=found[Result.REFUSED],
        failed=found[Result.FAILED],
        left=found[Result.LEFT],
        cut=found[Result.CUT],
        rps=sums.in_time / span,
        tokens_per_s=sums.tokens_in_time / span,
        output_tokens=sums.output_tokens,
        untold=sums.untold,
        ttft=Times(sums.ttft),
        gap=Times(sums.gap),
        total=Times(sums.total),
        lag=Times(sums.lag),
        statuses=dict(sorted(sums.statuses.items())),
        reasons=dict(sums.reasons.most_common()),
    )


def _plain(bin_: Bin) -> dict[str, Any]:
    return {
        "sent": bin_.sent,
        "running": bin_.running,
        "output_tokens": bin_.output_tokens,
        **{result.value: bin_.results[result] for result in Result},
        "ttft": Times(bin_.ttft).plain(),
        "total": Times(bin_.total).plain(),
    }
