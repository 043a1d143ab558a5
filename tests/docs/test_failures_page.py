"""docs/failures.md: what it names exists, and every error that can be answered is in it."""

from __future__ import annotations

import re

import pytest

from tests.docs.claims import ROOT, answers, proofs, texts

PAGE = (ROOT / "docs" / "failures.md").read_text("utf-8")
COLUMNS = ["What fails", "Clients see", "Billed", "Told by", "Heals", "Tests"]
_CODED = re.compile(r"\b(\d{3}) `([a-z_]+)`")


def tables() -> list[list[list[str]]]:
    """Each table's rows of cells, its head first."""
    blocks = re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)
    return [
        [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
        for table in (re.sub(r"^\|[-|]+\|\n", "", block, flags=re.M) for block in blocks)
    ]


def matrix() -> list[list[str]]:
    found = [row for head, *rows in tables() if head == COLUMNS for row in rows]
    assert len(found) > 50
    return found


def listed(which: int) -> set[tuple[int, str]]:
    """Status and code of the clients' table (0) or the admin port's (1)."""
    found = [rows for head, *rows in tables() if head == ["Status", "`code`", "When"]]
    return {(int(row[0]), code) for row in found[which] for code in re.findall(r"`(\w+)`", row[1])}


@pytest.mark.parametrize("row", matrix(), ids=lambda row: row[0][:40])
def test_a_row_is_whole_and_names_what_exists(row: list[str]) -> None:
    assert len(row) == len(COLUMNS)
    named = set(re.findall(r"`(\w+)`", row[-1]))
    assert named, "no test proves it"
    assert not named - proofs()
    known = texts()
    for name in re.findall(r"`((?:sentinel_)?[a-z]+(?:_[a-z]+)+)`", row[3]):
        assert name in known or name.removesuffix("_total") in known, name
    for status, code in _CODED.findall(row[1]):
        assert any(a.status == int(status) and a.code == code for a in answers()), (status, code)


def test_every_answer_of_the_code_is_listed_and_no_other() -> None:
    can = {(answer.status, answer.code) for answer in answers() if not answer.admin}
    admin = {(answer.status, answer.code) for answer in answers() if answer.admin}
    assert listed(1) >= admin
    assert listed(1) <= admin | can
    # What only the admin port can answer may be raised in parts that both use.
    assert listed(0) <= can
    assert can - listed(0) <= listed(1)
