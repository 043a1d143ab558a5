"""What a run measured: medians, ratios and targets; as JSON, as tables, as a picture. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement; microseconds of CPU for each call, milliseconds of latency."""

    processor_us: float
    envoy_us: float
    redis_us: float
    p50_ms: float
    p99_ms: float
    calls_per_s: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load.

    Attributes:
        chunks: of a streamed answer; 0 for a plain one.
        connections: clients at once.
        fresh: no prompt is the same as one before.
    """

    name: str
    prompt_bytes: int
    chunks: int
    connections: int
    fresh: bool = True


@dataclass(slots=True)
class Run:
    """All of one run.

    Attributes:
        about: when, on what, how.
        scenarios: as they were measured.
        results: by scenario and variant, one for each round.
        stages: the same, of ours with a stage taken off or changed.
        stream_bytes: memory for each open stream, by variant.
        resident_bytes: memory after the load, by variant.
        notes: what was left out, and why.
    """

    about: dict[str, str] = field(default_factory=dict)
    scenarios: list[Scenario] = field(default_factory=list)
    results: dict[str, dict[str, list[Result]]] = field(default_factory=dict)
    stages: dict[str, dict[str, list[Result]]] = field(default_factory=dict)
    stream_bytes: dict[str, float] = field(default_factory=dict)
    resident_bytes: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"format": FORMAT} | asdict(self)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Run:
        """What `plain` wrote.

        Raises:
            ValueError: of another format.
        """
        if content.get("format") != FORMAT:
            raise ValueError("results of another format: run it again")
        rest = {key: value for key, value in content.items() if key != "format"}
        rest["scenarios"] = [Scenario(**one) for one in rest["scenarios"]]
        for name in ("results", "stages"):
            rest[name] = {
                scenario: {
                    variant: [Result(**one) for one in found] for variant, found in by.items()
                }
                for scenario, by in rest[name].items()
            }
        return cls(**rest)

    def scenario(self, name: str) -> Scenario:
        """By its name."""
        return next(one for one in self.scenarios if one.name == name)


Value = Callable[[Result], float]


def median(results: Sequence[Result], value: Value) -> float:
    """Over the rounds."""
    return statistics.median(map(value, results))


def processor(result: Result) -> float:
    """Its CPU, in microseconds for each call."""
    return result.processor_us


def whole(result: Result) -> float:
    """CPU of the whole gateway: the processor, its Envoy, its Redis."""
    return result.processor_us + result.envoy_us + result.redis_us


def added(
    results: Sequence[Result], plain: Sequence[Result], value: Value
) -> tuple[float, float, float]:
    """What a gateway adds to ``value``, round by round: median, least, most."""
    found = [value(one) - value(other) for one, other in zip(results, plain, strict=False)]
    return statistics.median(found), min(found), max(found)


def per_chunk_us(run: Run, variant: str, value: Value = processor) -> float | None:
    """CPU for one more chunk of a stream: what long streams cost more than short ones."""
    streams = sorted(
        (one for one in run.scenarios if one.chunks and variant in run.results.get(one.name, {})),
        key=lambda one: one.chunks,
    )
    if len(streams) < 2 or streams[0].chunks == streams[-1].chunks:
        return None
    short, long = streams[0], streams[-1]
    costs = [median(run.results[one.name][variant], value) for one in (short, long)]
    return (costs[1] - costs[0]) / (long.chunks - short.chunks)


@dataclass(frozen=True, slots=True)
class Target:
    """A target and what was measured.

    Attributes:
        measured: the ratio; None: not measured in this run.
        at_least: the ratio must not be below; else not above.
    """

    name: str
    bound: float
    measured: float | None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it is; None: not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


def targets(run: Run, *, ours: str, floor: str, own_floor: str, plain: str) -> list[Target]:
    """Those that issue and documentation name. LiteLLM and Portkey are found by their names."""
    one, many = _json(run, 1), _json(run, 16)

    def ratio(scenario: str | None, of: str, value: Value) -> float | None:
        by = run.results.get(scenario or "", {})
        if ours not in by or of not in by:
            return None
        return median(by[ours], value) / median(by[of], value)

    def added_p50(of: str) -> float | None:
        by = run.results.get(one or "", {})
        if not {ours, of, plain} <= by.keys():
            return None
        return (
            added(by[ours], by[plain], lambda r: r.p50_ms)[0]
            / added(by[of], by[plain], lambda r: r.p50_ms)[0]
        )

    def per_core(peer: str, value: Value) -> float | None:
        by = run.results.get(many or "", {})
        name = next((name for name in by if name.startswith(peer)), None)
        if name is None or ours not in by:
            return None
        return median(by[name], processor) / median(by[ours], value)

    chunks = [per_chunk_us(run, name) for name in (ours, floor)]
    per_chunk = chunks[0] / chunks[1] if chunks[0] and chunks[1] else None
    naive, own = ratio(many, floor, processor), ratio(many, own_floor, processor)
    return [
        Target("CPU of a JSON call, now, of the empty grpc.aio processor's", 1.5, naive),
        Target("CPU of a JSON call, in the end, of the empty grpc.aio processor's", 1.0, naive),
        Target("the same, of the empty processor's on our own HTTP/2", 1.5, own),
        Target("CPU of a chunk, of the empty grpc.aio processor's", 1.2, per_chunk),
        Target(
            "added p50 at one connection, of the empty grpc.aio processor's", 1.5, added_p50(floor)
        ),
        *(
            Target(
                f"requests per second and core{counted}, of {peer}'s",
                bound,
                per_core(peer, value),
                at_least=True,
            )
            for peer, bound in (("LiteLLM", 10.0), ("Portkey", 1.2))
            for counted, value in (("", processor), (", Envoy and Redis counted in", whole))
        ),
    ]


def _json(run: Run, connections: int) -> str | None:
    found = (
        one.name
        for one in run.scenarios
        if not one.chunks and one.connections == connections and one.prompt_bytes < 1000
    )
    return next(found, None)


def plan_seconds(
    budget_s: float, *, fixed_s: float, measurements: int, least: float, most: float
) -> float:
    """How long each measurement may take, so that all of them fit.

    Args:
        fixed_s: what takes its time whatever is chosen.
    """
    return min(most, max(least, (budget_s - fixed_s) / max(1, measurements)))
