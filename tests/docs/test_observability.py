"""Dashboard, alerts and their page: every name in a query is one that the sidecar exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import promql_parser as promql
import pytest
import yaml
from prometheus_client import Counter, Histogram

from sentinel_extproc.admin.assembly import _readings
from sentinel_extproc.telemetry.counting import Counts, Distribution
from sentinel_extproc.telemetry.prometheus import Metrics
from sentinel_extproc.telemetry.readings import Kind
from sentinel_extproc.workers.front import supervisor_families
from sentinel_extproc.workers.shelf import Roster

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "observability"
PAGE = (ROOT / "docs" / "alerts.md").read_text("utf-8")
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "rules.yaml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDS = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))

SCRAPED = {"job", "instance"}
"""Labels that Prometheus adds."""


@cache
def exported() -> dict[str, set[str]]:
    """Labels by the names of samples, from the registry as a sidecar with everything on has it."""
    metrics = Metrics()
    found: dict[str, set[str]] = {}
    for collector, names in metrics.registry._collector_to_names.items():
        labels = set(getattr(collector, "_labelnames", getattr(collector, "labels", ())))
        if isinstance(collector, Histogram | Distribution):
            labels |= {"le"}
        kept = [name for name in names if not name.endswith("_created")]
        if isinstance(collector, Counter | Counts):
            kept = [name for name in kept if name.endswith("_total")]
        elif isinstance(collector, Histogram | Distribution):
            kept = [name for name in kept if name.endswith(("_bucket", "_sum", "_count"))]
        found |= dict.fromkeys(kept, labels)
    for family in metrics.registry.collect():
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, set()) | set(sample.labels)
    for reading in _readings(MagicMock(), MagicMock(), MagicMock()):
        found[reading.name] = set() if reading.label is None else {reading.label}
        assert (reading.kind is Kind.COUNTER) == reading.name.endswith("_total")
    for told in supervisor_families(Roster(1, ())):
        for name, pairs, _ in told.values:
            found[name] = {label for label, _ in pairs}
    return found


def walk(node: Any) -> Iterator[Any]:
    """An expression and all that is in it."""
    yield node
    match node:
        case promql.BinaryExpr():
            inner = [node.lhs, node.rhs]
        case promql.Call():
            inner = list(node.args)
        case promql.MatrixSelector():
            inner = [node.vector_selector]
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr():
            inner = [node.expr]
        case promql.SubqueryExpr():
            inner = [node.expr]
        case promql.VectorSelector() | promql.NumberLiteral() | promql.StringLiteral():
            inner = []
        case _:
            raise AssertionError(f"the walk doesn't know {type(node).__name__}")
    for one in inner:
        yield from walk(one)


def grouped(node: Any) -> set[str]:
    """Labels that an expression sums or matches by."""
    if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
        return set(node.modifier.labels)
    if isinstance(node, promql.BinaryExpr) and node.modifier is not None:
        matching = node.modifier.matching
        return set(matching.labels if matching is not None else ())
    return set()


def labels_of(name: str, known: dict[str, set[str]]) -> set[str]:
    if name in RECORDS:  # what its rule sums by, and nothing else
        sums = (node for node in walk(promql.parse(RECORDS[name])) if grouped(node))
        return grouped(next(sums)) - {"le"}
    return known[name] | SCRAPED


def faults(query: str, known: dict[str, set[str]] | None = None) -> list[str]:
    """What of a query the sidecar doesn't export."""
    known = exported() if known is None else known
    plain = re.sub(r"\$__\w+", "5m", query)  # Grafana puts a duration here
    nodes = list(walk(promql.parse(plain)))
    found, labels = [], set(SCRAPED)
    for node in nodes:
        if not isinstance(node, promql.VectorSelector):
            continue
        assert node.name is not None, "name the metric itself"
        if node.name not in known and node.name not in RECORDS:
            found.append(f"no metric {node.name}")
            continue
        own = labels_of(node.name, known)
        labels |= own
        for matcher in node.matchers.matchers:
            if matcher.name not in own:
                found.append(f"no label {matcher.name} of {node.name}")
            elif matcher.name not in SCRAPED:
                values = matcher.value.split("|")
                found += [f"no value {value} anywhere" for value in values if not said(value)]
    for node in nodes:
        found += [f"no label {label} to go by" for label in sorted(grouped(node) - labels)]
    return found


@cache
def said(value: str) -> bool:
    """Whether the code has this text: a label's value that it never gives would match nothing."""
    sources = (ROOT / "sentinel_extproc").rglob("*.py")
    return any(f'"{value}"' in path.read_text("utf-8") for path in sources)


def panels() -> Iterator[dict[str, Any]]:
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def queries() -> Iterator[Any]:
    for rule in RULES:
        yield pytest.param(rule["expr"], id=rule.get("alert") or rule["record"])
    for panel in panels():
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for note in DASHBOARD["annotations"]["list"]:
        yield pytest.param(note["expr"], id=note["name"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            inside = re.fullmatch(r"label_values\((.+), \w+\)", variable["definition"])
            assert inside is not None
            yield pytest.param(inside[1], id=variable["name"])


@pytest.mark.parametrize("query", list(queries()))
def test_every_query_asks_for_what_is_exported(query: str) -> None:
    assert faults(query) == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("rate(sentinel_exchange_total[5m])", "no metric sentinel_exchange_total"),
        ("sentinel_exchanges", "no metric sentinel_exchanges"),
        ('sentinel_exchanges_total{user="a"}', "no label user of sentinel_exchanges_total"),
        ("sum by (user) (sentinel_exchanges_live)", "no label user to go by"),
        ('sentinel_exchanges_total{decision="denied_"}', "no value denied_ anywhere"),
        ("sentinel:event_loop_lag_seconds:p99_5m{le='1'}", "no label le of sentinel:event"),
        ("a{} / on (job) b", "no metric a"),
    ],
)
def test_the_check_sees_what_is_wrong(query: str, fault: str) -> None:
    assert any(one.startswith(fault) for one in faults(query))


def test_a_renamed_metric_is_seen() -> None:
    known = {name.replace("_live", "_open"): labels for name, labels in exported().items()}
    assert [q for param in queries() if faults(q := str(param.values[0]), known)]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    told = rule["annotations"]
    assert told["summary"].endswith(".")
    assert len(told["description"]) > 20
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert told["runbook_url"] == f"docs/alerts.md#{rule['alert'].lower()}"
    section = PAGE.partition(f"\n## {rule['alert']}\n")[2].partition("\n## ")[0]
    assert len(section) > 100, "no section in docs/alerts.md"
    assert "**Do:**" in section
    for name in re.findall(r"\{\{ \$labels\.(\w+) }}", " ".join(told.values())):
        assert name in given_to(rule["expr"]), name


def given_to(query: str) -> set[str]:
    """Labels that an alert's result can have."""
    sums = (n for n in walk(promql.parse(query)) if isinstance(n, promql.AggregateExpr))
    first = next(sums, None)
    nodes = walk(promql.parse(query))
    names = [n.name for n in nodes if isinstance(n, promql.VectorSelector) and n.name]
    everything = set().union(*(labels_of(name, exported()) for name in names))
    return everything if first is None else everything & (grouped(first) | {"where", "endpoint"})


def test_the_page_has_no_section_of_an_alert_that_is_not() -> None:
    sections = re.findall(r"^## (Sentinel\w+)$", PAGE, re.MULTILINE)
    assert sections == [rule["alert"] for rule in ALERTS]


def test_what_the_page_names_exists() -> None:
    named = set(re.findall(r"`(sentinel_[a-z_]+)`", PAGE))
    assert named
    assert named <= set(exported())


def test_panels_name_alerts_that_are_and_dont_overlap() -> None:
    alerts = {rule["alert"] for rule in ALERTS}
    named = set(re.findall(r"Sentinel[A-Z]\w+", " ".join(p["description"] for p in panels())))
    assert named
    assert named <= alerts
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
