"""What a finding is. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Requests fail, are cut, or pass ungoverned."""
    WARNING = "warning"
    """It works today, and won't under load, with some clients or when something else breaks."""
    NOTE = "note"
    """Worth knowing."""

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that may be wrong with a configuration.

    Attributes:
        id: stable; ``--ignore`` and scripts go by it.
        title: what is wrong, in one line.
        effect: what happens because of it.
        fix: YAML that mends it, or a comment where it takes more than YAML.
    """

    id: str
    severity: Severity
    title: str
    effect: str
    fix: str

    def at(self, where: str, seen: str = "") -> Finding:
        """A finding.

        Args:
            where: the place in the configuration.
            seen: what stands there, when that says more than the rule does.
        """
        return Finding(rule=self, where=where, seen=seen)


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule, broken at one place."""

    rule: Rule
    where: str
    seen: str = ""

    @property
    def sort_key(self) -> tuple[int, str, str]:
        """Worst first, then by rule, then by place."""
        return (self.rule.severity.rank, self.rule.id, self.where)


@dataclass(frozen=True, slots=True)
class Ignored:
    """A rule that the user knows about.

    Attributes:
        where: only findings whose place contains this; empty for all.
    """

    id: str
    where: str = ""

    def covers(self, finding: Finding) -> bool:
        """Whether it is this finding that is meant."""
        return finding.rule.id == self.id and self.where in finding.where


def unique(findings: Iterable[Finding]) -> list[Finding]:
    """Each once, worst first."""
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.sort_key)
