"""Which limits apply to a request. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import translate

from .limit import Kind, Limit
from .model import Subject, Unit


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
        self._compiled = tuple((_matcher(rule.match), rule) for rule in rules)
        for rule in rules:
            names = [limit.name for limit in rule.limits]
            if len(set(names)) < len(names):
                raise ValueError(f"a rule names a limit twice: {', '.join(sorted(names))}")

    def limits_for(self, subject: Subject) -> tuple[Limit, ...]:
        """The limits that apply, in the order of the rules."""
        chosen: dict[str, Limit] = {}
        for matches, rule in self._compiled:
            if matches(subject):
                for limit in rule.limits:
                    chosen.setdefault(limit.name, limit)
                if rule.final:
                    break
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


def _matcher(match: Match) -> Callable[[Subject], bool]:
    tests: list[tuple[Callable[[Subject], str], re.Pattern[str]]] = [
        (read, _pattern(globs))
        for read, globs in (
            (lambda subject: subject.path, match.path),
            (lambda subject: subject.endpoint, match.endpoint),
            (lambda subject: subject.model, match.model),
            (lambda subject: subject.plan or "", match.plan),
            (lambda subject: subject.external_id, match.user),
        )
        if globs
    ]
    return lambda subject: all(pattern.fullmatch(read(subject)) for read, pattern in tests)


def _pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob) for glob in globs))
