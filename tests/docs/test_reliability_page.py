"""docs/reliability.md's results: each row is the catalogue's, and names tests that exist."""

from __future__ import annotations

import re

import pytest

from tests.docs.claims import ROOT, proofs
from tests.faults.catalogue import SECTIONS, named
from tests.faults.outcome import Outcome
from tests.faults.report import BEGIN, END, LONG, files_of, gathered, last_tries, tables, written

PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
RESULTS = PAGE.partition(BEGIN)[2].partition(END)[0]


def rows() -> list[list[str]]:
    lines = [line for line in RESULTS.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return [row for row in cells if row[0] != "Fault"]


def test_the_page_has_every_row_of_the_catalogue_and_no_other() -> None:
    on_page = [tuple(re.findall(r"`(\w+)`", row[-1])) for row in rows()]
    assert on_page == [row.tests for section in SECTIONS.values() for row in section]
    assert re.findall(r"^#### (.*)$", RESULTS, re.M) == list(SECTIONS)


def test_every_test_that_is_named_exists_and_is_found() -> None:
    assert not set(named()) - proofs()
    assert {node.rpartition("::")[2] for node in files_of(named())} == set(named())


def test_no_test_of_a_whole_stack_under_faults_is_left_out() -> None:
    """What reports an outcome is on the page."""
    reporting = {
        name
        for path in (ROOT / "tests" / "faults").glob("test_*.py")
        for name, parameters in re.findall(
            r"^(?:async )?def (test_\w+)\(([^)]*)\)", path.read_text("utf-8"), re.M
        )
        if "outcome" in parameters or "scene" in parameters or "far" in parameters
    }
    assert len(reporting) > 20
    assert reporting <= set(named())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_what_the_page_tells_is_that_all_held(row: list[str]) -> None:
    _, tried, held, lost, over, _, _ = row
    if held in ("skipped here", "not run"):
        pytest.fail(f"{row[0]} was not tried: run make reliability")
    assert int(tried.replace(",", "")) > 0
    assert held == tried
    assert lost in ("", "0")
    assert over in ("", "0")


def line(test: str, outcome: Outcome | None, *, passed: bool = True) -> dict[str, object]:
    told = None if outcome is None else outcome.as_json()
    return {"node": test, "test": test, "skipped": False, "passed": passed, "outcome": told}


def test_results_of_a_row_are_summed() -> None:
    row = next(row for row in SECTIONS["Redis"] if row.what == "frozen")
    first, second = Outcome(over=0), Outcome(lost=1, over=2, figures={"memory": "5 MiB"})
    first.saw(200)
    second.saw(200)
    second.saw("cut", held=False)
    found = gathered(row, [line(row.tests[0], first), line(row.tests[0], second)])
    assert (found.tried, found.held, found.lost, found.over) == (3, 2, 1, 2)
    assert found.clients == {"200": 2, "cut": 1}
    bare = gathered(row, [line(row.tests[1], None), line("test_another", None)])
    assert (bare.tried, bare.held, bare.lost, bare.over) == (1, 1, None, None)


def test_what_failed_or_was_not_run_says_so() -> None:
    test = SECTIONS["Redis"][1].tests[0]
    text = tables([line(test, None, passed=False)])
    (failed,) = [one for one in text.splitlines() if f"`{test}`" in one]
    assert "**failed**" in failed
    assert "not run" in text


def test_of_a_test_that_was_tried_again_the_last_try_counts() -> None:
    text = '{"node": "a", "n": 1}\n{"node": "b", "n": 1}\n{"node": "a", "n": 2}\n'
    assert {(one["node"], one["n"]) for one in last_tries(text)} == {("a", 2), ("b", 1)}


def test_the_results_are_replaced_and_nothing_else() -> None:
    again = written(PAGE, "| new |")
    assert again.partition(BEGIN)[0] == PAGE.partition(BEGIN)[0]
    assert again.partition(END)[2] == PAGE.partition(END)[2]
    assert "| new |" in again
    assert written(again, RESULTS) == written(PAGE, RESULTS)
    with pytest.raises(ValueError, match="no marks"):
        written("nothing", "")


def test_lengths_are_no_settings_which_a_sidecar_would_refuse() -> None:
    assert not [name for name in LONG if name.startswith("SENTINEL_")]
