"""Which limits apply to a request. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import translate

from .limit import Kind, Limit
from .model import Subject, Unit

_Test = tuple[Callable[[Subject], str], re.Pattern[str]]
"""A field of a subject, and what it must look like."""

_MOST_MERGED = 1_024
"""Sets of rules that match together. A policy has a handful."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule is for: every field that is given must match, by one of its patterns.

    Patterns are shell globs (``*``, ``?``, ``[a-z]``) over the whole value, case-sensitive. A
    caller whose plan is unknown matches a rule about plans only by the pattern ``*``.
    """

    path: tuple[str, ...] = ()
    endpoint: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    user: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """Limits for what matches.

    Attributes:
        final: later rules are not looked at once this one matched.
    """

    limits: tuple[Limit, ...]
    match: Match = Match()
    final: bool = False


class Policy:
    """An ordered list of rules. Every matching rule adds its limits; of limits with the same name
    the first one counts, so that exceptions go before the general case.

    Raises:
        ValueError: one rule names a limit twice.
    """

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self._compiled = tuple((_tests(rule.match), rule) for rule in rules)
        self._merged: dict[tuple[int, ...], tuple[Limit, ...]] = {}
        # Where no rule asks for anything, everybody has the same.
        asks = any(tests for tests, _ in self._compiled)
        self._for_all = None if asks else self._merge(tuple(range(self._last() + 1)))
        for rule in rules:
            names = [limit.name for limit in rule.limits]
            if len(set(names)) < len(names):
                raise ValueError(f"a rule names a limit twice: {', '.join(sorted(names))}")

    def limits_for(self, subject: Subject) -> tuple[Limit, ...]:
        """The limits that apply, in the order of the rules."""
        if self._for_all is not None:
            return self._for_all
        matching = []
        for number, (tests, rule) in enumerate(self._compiled):
            for read, pattern in tests:
                if pattern.fullmatch(read(subject)) is None:
                    break
            else:
                matching.append(number)
                if rule.final:
                    break
        # Kept by the rules, of which there are few, and not by what clients write.
        found = tuple(matching)
        limits = self._merged.get(found)
        if limits is None:
            if len(self._merged) >= _MOST_MERGED:
                self._merged.clear()
            limits = self._merged[found] = self._merge(found)
        return limits

    def _last(self) -> int:
        """The rule after which none is looked at, if none asks for anything."""
        final = (number for number, rule in enumerate(self.rules) if rule.final)
        return next(final, len(self.rules) - 1)

    def _merge(self, matching: tuple[int, ...]) -> tuple[Limit, ...]:
        chosen: dict[str, Limit] = {}
        for number in matching:
            for limit in self.rules[number].limits:
                chosen.setdefault(limit.name, limit)
        return tuple(chosen.values())


def default_policy(*, requests: int = 100, period_s: float = 60.0) -> Policy:
    """One limit for everybody: ``requests`` in any window of ``period_s`` seconds."""
    limit = Limit(
        name="requests",
        unit=Unit.REQUESTS,
        kind=Kind.RING,
        capacity=requests,
        period_ms=round(period_s * 1000),
    )
    return Policy((Rule(limits=(limit,)),))


def _tests(match: Match) -> tuple[_Test, ...]:
    return tuple(
        (read, _pattern(globs))
        for read, globs in (
            (lambda subject: subject.path, match.path),
            (lambda subject: subject.endpoint, match.endpoint),
            (lambda subject: subject.model, match.model),
            (lambda subject: subject.plan or "", match.plan),
            (lambda subject: subject.external_id, match.user),
        )
        if globs
    )


def _pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob) for glob in globs))
