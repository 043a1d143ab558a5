"""docs/load-testing.md holds what it shows: its scenario and its conditions can be used."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from sentinel_extproc.loadtest.scenario import USUAL, Kind, Load, Scenario, read_scenario
from sentinel_extproc.loadtest.thresholds import parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/load-testing.md").read_text()


def shown() -> Scenario:
    found = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return Scenario.model_validate(yaml.safe_load(found[1]))


def test_the_scenario_can_be_used_and_every_field_is_named() -> None:
    assert {kind.name for kind in shown().mix} == {"chat", "search"}
    for model in (Scenario, Load, Kind):
        for name in model.model_fields:
            assert name in PAGE, name


def test_the_conditions_can_be_used() -> None:
    kinds = tuple(kind.name for kind in shown().mix)
    found = re.findall(r"--fail-if '([^']+)'", PAGE)
    assert len(found) == 3
    for text in found:
        parse(text, kinds)


def test_the_usual_scenario_is_where_it_says() -> None:
    assert (ROOT / "sentinel_extproc/loadtest/usual.yaml").samefile(USUAL)
    assert read_scenario(USUAL).mix
