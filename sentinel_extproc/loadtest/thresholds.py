"""Conditions under which a test fails: ``p99_ttft>500ms``, ``error_rate>=1%``. Pure."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass

from .quantities import seconds, share
from .report import Report, Row, Times

_FORM = re.compile(
    r"\s*(?P<metric>[a-z0-9._]+)\s*(?:\[(?P<kind>[^\]]*)\])?\s*"
    r"(?P<test>>=|<=|>|<)\s*(?P<limit>[0-9.]+\s*(?:ms|s|m|%)?)\s*"
)
_TESTS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_TIME = re.compile(r"(p\d{1,2}(?:\.\d+)?|mean|max)_(ttft|gap|total|lag)")
_SHARES = ("error_rate", "refused_rate")
_NUMBERS = ("rps", "tokens_per_s", "requests")
_OF_ALL = ("not_sent", "held_back")
METRICS = "pNN_, mean_ or max_ with ttft, gap, total or lag; " + ", ".join(
    (*_SHARES, *_NUMBERS, *_OF_ALL)
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one condition.

    Attributes:
        seen: the value that was held against it; None: there was none, which fails.
        unit: of it: ``s``, ``share``, or nothing.
    """

    text: str
    failed: bool
    seen: float | None
    unit: str

    def shown(self) -> str:
        """``seen`` for people."""
        match self.seen, self.unit:
            case None, _:
                return "nothing was measured"
            case seen, "s":
                return f"{seen * 1e3:.4g} ms"
            case seen, "share":
                return f"{seen:.3%}"
            case seen, _:
                return f"{seen:,.6g}"


@dataclass(frozen=True, slots=True)
class Threshold:
    """One condition.

    Attributes:
        kind: of request; None: all of them.
        limit: seconds, a share, or a number.
    """

    text: str
    metric: str
    kind: str | None
    test: str
    limit: float

    def judge(self, report: Report) -> Verdict:
        """Hold it against what was measured. What wasn't measured fails: a test that saw nothing
        has shown nothing."""
        seen = self._seen(report)
        failed = seen is None or _TESTS[self.test](seen, self.limit)
        unit = "s" if _TIME.fullmatch(self.metric) else "share" if self.metric in _SHARES else ""
        return Verdict(self.text, failed, seen, unit)

    def _seen(self, report: Report) -> float | None:
        if self.metric in _OF_ALL:
            return float(getattr(report, self.metric))
        rows = (report.all, *report.kinds)
        row = next((r for r in rows if r.name == self.kind), None) if self.kind else report.all
        if row is None:
            return None
        if found := _TIME.fullmatch(self.metric):
            times: Times = getattr(row, found[2])
            return times.at(found[1])
        return _number(row, self.metric)


def parse(text: str, kinds: tuple[str, ...]) -> Threshold:
    """A condition as people write it; ``[name]`` after the metric asks for one kind of request.

    Raises:
        ValueError: it can't be understood, with a sentence that says why.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not of the form 'p99_ttft>500ms'")
    metric, limit = found["metric"], found["limit"].strip()
    if found["kind"] is not None and found["kind"] not in kinds:
        raise ValueError(f"{text!r}: no kind of request is called {found['kind']!r}")
    try:
        value = _limit(metric, limit, of_all=found["kind"] is None)
    except ValueError as fault:
        raise ValueError(f"{text!r}: {fault}") from None
    return Threshold(text, metric, found["kind"], found["test"], value)


def _limit(metric: str, limit: str, *, of_all: bool) -> float:
    if _TIME.fullmatch(metric):
        if limit[-1].isdigit():
            raise ValueError("needs a unit, such as ms")
        return seconds(limit)
    if metric in _SHARES:
        return share(limit)
    if metric in _NUMBERS or (metric in _OF_ALL and of_all):
        return float(limit)
    raise ValueError(f"there is no such metric; there are {METRICS}")


def _number(row: Row, metric: str) -> float | None:
    if metric == "requests":
        return float(row.requests)
    if not row.requests:
        return None
    if metric == "error_rate":
        return row.failed / row.requests
    if metric == "refused_rate":
        return row.refused / row.requests
    return row.rps if metric == "rps" else row.tokens_per_s
