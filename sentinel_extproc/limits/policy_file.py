"""A policy from YAML, every fault found at once.

::

    prices:                       # per million tokens; globs, first match
      gpt-4o-mini*: {input: 0.15, output: 0.60}
      "*":          {input: 2.50, output: 10.00}
    rules:                        # every matching rule adds its limits; of one name, the first
      - match: {plan: free, model: ["gpt-4*", "o3*"]}
        limits:
          - {name: requests, unit: requests, kind: ring, limit: 20, per: 1m}
          - {name: tokens, unit: total_tokens, kind: bucket, limit: 40000, burst: 80000, per: 1m}
          - {name: streams, unit: requests, kind: concurrency, limit: 3}
      - limits:
          - {name: spend, unit: cost, kind: calendar, limit: 25.0, per: month,
             cost: "(input_tokens * price.input + output_tokens * price.output) / 1000000.0"}
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sentinel_extproc.yaml_file import YamlFileError, parse, read_text

from .cost import CelCost, Price, PriceTable, uses_price
from .limit import MICRO, Kind, Limit, OnExhausted, OnOutage, Period
from .model import Unit
from .policy import Match, Policy, Rule

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class PolicyFileError(YamlFileError):
    """A policy file that can't be used."""


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Globs = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PriceEntry(_Entry):
    """Money per million tokens."""

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)


class MatchEntry(_Entry):
    """See ``policy.Match``; one glob or a list."""

    path: Globs = ()
    endpoint: Globs = ()
    model: Globs = ()
    plan: Globs = ()
    user: Globs = ()


class LimitEntry(_Entry):
    """See ``limit.Limit``; ``per`` is a duration (``90s``, ``1m``) or a calendar period, and what
    is counted at once has none."""

    name: str
    unit: Unit
    kind: Kind
    limit: int | float = Field(ge=0, allow_inf_nan=False)
    per: str | None = Field(default=None, validate_default=True)
    burst: int | float | None = Field(default=None, ge=0, allow_inf_nan=False)
    cost: str | None = None
    shadow: bool = False
    per_model: bool = False
    right_size: bool = False
    on_outage: OnOutage = OnOutage.LOCAL
    on_exhausted: OnExhausted = OnExhausted.SETTLE_AS_DEBT

    @field_validator("per")
    @classmethod
    def _goes_with_the_kind(cls, per: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind")
        if kind is Kind.CONCURRENCY:
            if per is not None:
                raise ValueError("concurrency counts at once and not per time: leave it out")
        elif per is None:
            raise ValueError("is needed")
        return per

    @model_validator(mode="after")
    def _builds(self) -> LimitEntry:
        """Whatever ``Limit`` says is a fault of this entry."""
        self.build(PriceTable())
        return self

    def build(self, prices: PriceTable) -> Limit:
        """The limit it describes.

        Raises:
            ValueError: values that don't go together.
        """
        period, period_ms = self._period()
        return Limit(
            name=self.name,
            unit=self.unit,
            kind=self.kind,
            capacity=self._counted(self.limit),
            period_ms=period_ms,
            period=period,
            burst=None if self.burst is None else self._counted(self.burst),
            shadow=self.shadow,
            per_model=self.per_model,
            right_size=self.right_size,
            on_outage=self.on_outage,
            on_exhausted=self.on_exhausted,
            cost=None if self.cost is None else CelCost(self.cost, prices),
        )

    def _period(self) -> tuple[Period, int]:
        if self.per is None:  # what is counted at once
            return Period.LIFETIME, 60_000
        if self.kind is Kind.CALENDAR:
            if self.per not in set(Period):
                raise ValueError("per: a calendar limit is per day, week, month or lifetime")
            return Period(self.per), 60_000
        match = _DURATION.fullmatch(self.per.strip())
        if match is None:
            raise ValueError("per: must be a duration such as 500ms, 90s, 1m, 24h or 7d")
        return Period.LIFETIME, round(float(match[1]) * _MS[match[2]])

    def _counted(self, value: float) -> int:
        if self.unit is Unit.COST:
            return round(value * MICRO)
        if value != int(value):
            raise ValueError(f"{value} {self.unit.value} is no whole number")
        return int(value)


class RuleEntry(_Entry):
    """See ``policy.Rule``."""

    match: MatchEntry = MatchEntry()
    limits: tuple[LimitEntry, ...] = ()
    final: bool = False

    @model_validator(mode="after")
    def _names_differ(self) -> RuleEntry:
        names = [entry.name for entry in self.limits]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"limits: named twice: {', '.join(twice)}")
        return self


class PolicyFile(_Entry):
    """The whole file; also usable as a section of a larger configuration."""

    prices: dict[str, PriceEntry] = Field(default_factory=dict)
    rules: tuple[RuleEntry, ...]

    @model_validator(mode="after")
    def _prices_are_there(self) -> PolicyFile:
        """Without a price every request that meets such a formula would be refused."""
        unpriced = [
            f"rules.{number}.limits.{place}"
            for number, rule in enumerate(self.rules)
            for place, entry in enumerate(rule.limits)
            if entry.cost is not None and uses_price(entry.cost)
        ]
        if unpriced and not self.prices:
            raise ValueError(
                f"prices: is needed, because a cost formula uses price ({', '.join(unpriced)}); "
                "usage.prices_file is for bills, and limits don't go by it"
            )
        return self

    def policy(self) -> Policy:
        """The policy it describes; formulas are compiled here, once."""
        prices = PriceTable(
            tuple((glob, Price(entry.input, entry.output)) for glob, entry in self.prices.items())
        )
        return Policy(
            tuple(
                Rule(
                    limits=tuple(entry.build(prices) for entry in rule.limits),
                    match=Match(**dict(rule.match)),
                    final=rule.final,
                )
                for rule in self.rules
            )
        )


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        PolicyFileError: it can't be read, or says something that makes no policy.
    """
    return parse_policy(read_text(path, PolicyFileError))


def parse_policy(text: str) -> Policy:
    """A policy from YAML text.

    Raises:
        PolicyFileError: with every fault.
    """
    return parse(text, PolicyFile, PolicyFileError, whole="policy").policy()
