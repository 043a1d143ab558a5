"""Our items against Zion's ledger: every way to differ is found, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.usage_cli.zion_ledger import (
    MAX_FINDINGS,
    Increment,
    Mismatch,
    OwnItem,
    compare,
    increments,
)

OWN = [
    OwnItem("k1", "ada", 1, 10, 20, "done"),
    OwnItem("k2", "bo", 2, 30, 40, "done"),
    OwnItem("k3", "bo", 1, 5, 6, "dead"),
    OwnItem("k4", "cy", 1, 7, 8, "sent"),
]
THEIRS = [Increment("k2", "bo", 2, 30, 40), Increment("k1", "ada", 1, 10, 20)]


def faults(own: list[OwnItem], theirs: list[Increment]) -> set[Mismatch]:
    return {finding.mismatch for finding in compare(own, theirs).findings}


def test_equal() -> None:
    result = compare(OWN, [*THEIRS, Increment("k4", "cy", 1, 7, 8), Increment("x"), Increment()])
    assert result.findings == []
    assert (result.matched, result.unacknowledged, result.foreign) == (3, 1, 2)


def test_missing() -> None:
    assert faults(OWN, THEIRS[:1]) == {Mismatch.MISSING}


def test_twice() -> None:
    assert faults(OWN, [*THEIRS, THEIRS[0]]) == {Mismatch.TWICE}


def test_a_dead_letter_that_was_billed() -> None:
    assert faults(OWN, [*THEIRS, Increment("k3", "bo", 1, 5, 6)]) == {Mismatch.HELD}


def test_another_user() -> None:
    assert faults(OWN, [THEIRS[0], Increment("k1", "bo", 1, 10, 20)]) == {Mismatch.USER}


@given(st.tuples(*[st.integers(0, 3)] * 3).filter(any))
def test_other_amounts(more: tuple[int, int, int]) -> None:
    own = replace(
        OWN[0],
        requests=OWN[0].requests + more[0],
        input_tokens=OWN[0].input_tokens + more[1],
        output_tokens=OWN[0].output_tokens + more[2],
    )
    assert faults([own], THEIRS) == {Mismatch.AMOUNT}


def test_findings_are_bounded_and_counted() -> None:
    own = [OwnItem(f"k{n}", "ada", 1, 1, 1, "done") for n in range(MAX_FINDINGS + 5)]
    result = compare(own, [])
    assert (len(result.findings), result.mismatches) == (MAX_FINDINGS, MAX_FINDINGS + 5)


def test_lines() -> None:
    lines = [json.dumps({"idempotencyKey": "k", "aiRequests": 2, "more": 1}), "", "{}\n"]
    assert list(increments(lines)) == [Increment("k", ai_requests=2), Increment()]


@pytest.mark.parametrize(
    "line", ["[", "[]", '{"aiRequests": -1}', '{"aiRequests": 1e99}', '"\\ud800"', "x" * 70_000]
)
def test_lines_that_can_t_be_read(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 "):
        list(increments(["{}", line]))
