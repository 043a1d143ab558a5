"""Findings for people and for machines. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sentinel_extproc.envoyconf.doctor.rules import Finding, Severity

PLACES_SHOWN = 5
_WIDTH = 96
_ALONE = (
    "Not compared with the sidecar's settings: name their file by --config or SENTINEL_CONFIG, or\n"
    "set them in the environment."
)


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """How many of each severity."""
    return {s.value: sum(f.rule.severity is s for f in findings) for s in Severity}


def as_json(findings: Sequence[Finding], *, settings: str = "") -> dict[str, Any]:
    """For machines: every finding by itself; ``settings`` as of ``as_text``."""
    return {
        "settings": {"compared": bool(settings), "from": settings or None},
        "summary": counts(findings),
        "findings": [
            {
                "id": finding.rule.id,
                "severity": finding.rule.severity.value,
                "where": finding.where,
                "seen": finding.seen,
                "title": finding.rule.title,
                "effect": finding.rule.effect,
                "fix": finding.rule.fix,
            }
            for finding in findings
        ],
    }


def as_text(findings: Sequence[Finding], *, settings: str = "") -> str:
    """For people: each rule once, with the places where it is broken.

    Args:
        findings: in the order of ``rules.unique``.
        settings: where the settings are from that it was compared with; empty if with none.
    """
    lines: list[str] = []
    for rule, group in groupby(findings, key=lambda finding: finding.rule):
        places = list(group)
        lines.append(f"{rule.severity.value.upper():8} {rule.id}: {rule.title}")
        for finding in places[:PLACES_SHOWN]:
            seen = f"  ({finding.seen})" if finding.seen else ""
            lines.append(_clean(f"  at   {finding.where}{seen}"))
        if len(places) > PLACES_SHOWN:
            lines.append(f"  and  {len(places) - PLACES_SHOWN} more places")
        lines += textwrap.wrap(
            rule.effect, _WIDTH, initial_indent="  then ", subsequent_indent=" " * 7
        )
        lines += [
            f"  {'fix ' if not number else '    '} {line}"
            for number, line in enumerate(rule.fix.splitlines())
        ]
        lines.append("")
    found = counts(findings)
    total = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in found.items() if n)
    lines.append(f"Found {total}." if total else "Nothing found.")
    lines.append(
        _clean(f"Compared with the sidecar's settings, from {settings}.") if settings else _ALONE
    )
    return "\n".join(lines)


def _clean(line: str) -> str:
    """Names come from somebody's file; a terminal must not act on them."""
    return "".join(char if char.isprintable() else "?" for char in line)
