"""What two looks at the metrics say of the time between them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

SHOWN = 8
"""Rows of a table."""

_EXCHANGES = "sentinel_exchanges_total"
_TOKENS = "sentinel_tokens_total"

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""By name and labels."""


@dataclass(frozen=True, slots=True)
class Look:
    """The metrics at one moment; ``at_s`` on any clock that only goes forward."""

    at_s: float
    series: Series


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second; ``models`` are tokens per second, ``reasons`` refusals per second."""

    seconds: float
    admitted: float = 0.0
    refused: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    endpoints: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "seconds": round(self.seconds, 3),
            "admitted_per_second": round(self.admitted, 3),
            "refused_per_second": round(self.refused, 3),
            "input_tokens_per_second": round(self.input_tokens, 3),
            "output_tokens_per_second": round(self.output_tokens, 3),
            "requests_by_endpoint": _rounded(self.endpoints),
            "tokens_by_model": _rounded(self.models),
            "refusals_by_code": _rounded(self.reasons),
        }


def read_look(text: str, at_s: float) -> Look:
    """A look from the text of ``/metrics``.

    Raises:
        ValueError: it isn't that.
    """
    wanted = {_EXCHANGES, _TOKENS}
    return Look(
        at_s,
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in wanted
        },
    )


def between(before: Look, after: Look) -> Rates:
    """How much a second; a counter that fell, as after a restart, began at 0 again."""
    seconds = max(after.at_s - before.at_s, 0.001)
    sums: dict[str, float] = defaultdict(float)
    endpoints: dict[str, float] = defaultdict(float)
    models: dict[str, float] = defaultdict(float)
    codes: dict[str, float] = defaultdict(float)
    for (name, frozen), value in after.series.items():
        grown = value - before.series.get((name, frozen), 0.0)
        rate = (value if grown < 0 else grown) / seconds
        labels = dict(frozen)
        if not rate:
            continue
        if name == _TOKENS:
            kind = labels.get("kind", "")
            sums[kind] += rate
            if kind in ("input", "output"):
                models[labels.get("model", "")] += rate
            continue
        admitted = labels.get("decision") == "admitted"
        sums["admitted" if admitted else "refused"] += rate
        endpoints[labels.get("endpoint", "")] += rate
        if not admitted:
            codes[labels.get("code", "")] += rate
    return Rates(
        seconds=seconds,
        admitted=sums["admitted"],
        refused=sums["refused"],
        input_tokens=sums["input"],
        output_tokens=sums["output"],
        endpoints=_most(endpoints.items()),
        models=_most(models.items()),
        reasons=_most(codes.items()),
    )


def _most(rates: Iterable[tuple[str, float]]) -> dict[str, float]:
    return dict(sorted(rates, key=lambda one: (-one[1], one[0]))[:SHOWN])


def _rounded(rates: Mapping[str, float]) -> dict[str, float]:
    return {name: round(rate, 3) for name, rate in rates.items()}
