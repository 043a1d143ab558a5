"""Every kept case through its target, and some more by mutation; `make fuzz` goes on for longer."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def module(name: str) -> Any:
    """One of this folder, which is no package of the product's."""
    spec = importlib.util.spec_from_file_location(
        f"tests.fuzz.{name}", ROOT / "tests/fuzz" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


targets, run = module("targets"), module("run")
CASES = [(name, path) for name in targets.TARGETS for path in run.kept(name)]


@pytest.mark.parametrize(("name", "path"), CASES, ids=[f"{n}/{p.name}" for n, p in CASES])
def test_a_kept_case_shows_no_bug(name: str, path: Path) -> None:
    targets.TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_mutations_of_them_show_none_either(name: str) -> None:
    dice = random.Random(20)
    seeds = [path.read_bytes() for path in run.kept(name)]
    assert seeds, "a target without a corpus isn't fuzzed, only hoped for"
    for _ in range(100):
        targets.TARGETS[name](run.mutated(dice, seeds))


def test_the_corpus_has_no_target_that_is_gone_and_stays_small() -> None:
    folders = {folder.name for folder in run.CORPUS.iterdir()}
    assert folders == set(targets.TARGETS)
    assert sum(path.stat().st_size for _, path in CASES) < 500_000
