"""The chain shows what is missing, altered or moved, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.usage import chain
from sentinel_extproc.usage.chain import Finding, Gap, Head, Kind, Link, verify

SIDECAR = "0198c0de-0000-7000-8000-000000000001"


def links(count: int, salt: str = "") -> list[Link]:
    rows = [(f"id-{n}{salt}", n, None) for n in range(1, count + 1)]
    _, hashes = chain.extend(chain.start(SIDECAR), rows)
    return [
        Link(n, chain.text(n, row), made)
        for n, (row, made) in enumerate(zip(rows, hashes, strict=True), 1)
    ]


def kinds(found: list[Finding]) -> list[tuple[Kind, int, int]]:
    return [(one.kind, one.first, one.last) for one in found]


def test_the_hashes_are_what_the_manual_says() -> None:
    start = hashlib.sha256(b"sentinel ledger 1\n" + SIDECAR.encode()).digest()
    text = json.dumps([1, "id-1", 1, None], separators=(",", ":")).encode()
    assert links(1) == [Link(1, text, hashlib.sha256(start + text).digest())]


@given(st.lists(st.none() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"))))
def test_the_text_is_json_as_anybody_writes_it(row: list[str | int | None]) -> None:
    assert json.loads(chain.text(7, row)) == [7, *row]
    plain = json.dumps([7, *row], separators=(",", ":"), ensure_ascii=False)
    assert chain.text(7, row) == plain.encode()


def test_records_in_several_groups_make_the_same_chain() -> None:
    rows = [(f"id-{n}", n, None) for n in range(1, 8)]
    whole, hashes = chain.extend(chain.start(SIDECAR), rows)
    head, first = chain.extend(chain.start(SIDECAR), rows[:3])
    head, rest = chain.extend(head, rows[3:])
    assert (head, first + rest) == (whole, hashes)


def test_a_whole_chain() -> None:
    whole = links(20)
    assert verify(whole, sidecar=SIDECAR) == []
    assert verify([], sidecar=SIDECAR) == []
    assert verify(whole, sidecar=SIDECAR, noted=[Head(20, whole[-1].hash)]) == []


def test_an_end_that_was_cut_off_shows_by_what_was_sealed() -> None:
    assert verify(links(3), sidecar=SIDECAR, least=3) == []
    assert kinds(verify(links(3), sidecar=SIDECAR, least=5)) == [(Kind.MISSING, 4, 5)]
    assert kinds(verify([], sidecar=SIDECAR, least=5)) == [(Kind.MISSING, 1, 5)]


def test_another_sidecars_chain() -> None:
    assert kinds(verify(links(3), sidecar="another")) == [(Kind.ALTERED, 1, 1)]


@given(st.integers(1, 20), st.data())
def test_with_any_runs_deleted_and_told(count: int, data: st.DataObject) -> None:
    whole = links(count)
    gone = data.draw(st.sets(st.integers(1, count)))
    gaps: list[Gap] = []
    for n in sorted(gone):
        if gaps and gaps[-1].last == n - 1:
            gaps[-1] = replace(gaps[-1], last=n, hash=whole[n - 1].hash)
        else:
            gaps.append(Gap(n, n, whole[n - 1].hash))
    left = [link for link in whole if link.seq not in gone]
    assert verify(left, gaps, sidecar=SIDECAR) == []
    for gap in gaps:
        silent = [other for other in gaps if other is not gap]
        found = kinds(verify(left, silent, sidecar=SIDECAR, noted=[Head(count, whole[-1].hash)]))
        assert (Kind.MISSING, gap.first, gap.last) in found


@given(st.integers(2, 20), st.data())
def test_a_missing_record(count: int, data: st.DataObject) -> None:
    whole = links(count)
    gone = data.draw(st.integers(1, count - 1))
    assert kinds(verify([x for x in whole if x.seq != gone], sidecar=SIDECAR)) == [
        (Kind.MISSING, gone, gone)
    ]


@given(st.integers(1, 20), st.data())
def test_an_altered_record(count: int, data: st.DataObject) -> None:
    whole = links(count)
    at = data.draw(st.integers(1, count)) - 1
    whole[at] = replace(whole[at], text=whole[at].text.replace(b"id-", b"di-"))
    assert kinds(verify(whole, sidecar=SIDECAR)) == [(Kind.ALTERED, at + 1, at + 1)]


def test_an_altered_record_with_a_hash_that_fits_it() -> None:
    whole = links(5)
    text = whole[1].text.replace(b"id-", b"di-")
    made = chain.following(Head(1, whole[0].hash), text)
    whole[1] = Link(2, text, made.hash)
    assert kinds(verify(whole, sidecar=SIDECAR)) == [(Kind.ALTERED, 3, 3)]


def test_exchanged_records() -> None:
    whole = links(5)
    one, two = whole[1], whole[2]
    whole[1], whole[2] = replace(two, seq=2), replace(one, seq=3)
    assert (Kind.ALTERED, 2, 2) in kinds(verify(whole, sidecar=SIDECAR))


def test_records_out_of_order() -> None:
    whole = links(4)
    whole[1], whole[2] = whole[2], whole[1]
    assert kinds(verify(whole, sidecar=SIDECAR)) == [
        (Kind.MISSING, 2, 2),
        (Kind.MOVED, 2, 2),
    ]
    assert kinds(verify([whole[0], whole[0]], sidecar=SIDECAR)) == [(Kind.MOVED, 1, 1)]


def test_a_gap_over_a_record_that_is_there() -> None:
    whole = links(3)
    assert kinds(verify(whole, [Gap(2, 2, whole[1].hash)], sidecar=SIDECAR)) == [(Kind.MOVED, 2, 2)]


def test_an_end_that_was_cut_off_is_seen_against_a_noted_head() -> None:
    whole = links(9)
    assert verify(whole[:6], sidecar=SIDECAR) == []
    noted = [Head(9, whole[-1].hash)]
    assert kinds(verify(whole[:6], sidecar=SIDECAR, noted=noted)) == [(Kind.MISSING, 7, 9)]


def test_a_chain_written_anew_is_seen_against_a_noted_head() -> None:
    noted = [Head(4, links(9)[3].hash)]
    forged = links(9, salt="!")
    assert verify(forged, sidecar=SIDECAR) == []
    assert kinds(verify(forged, sidecar=SIDECAR, noted=noted)) == [(Kind.REWRITTEN, 4, 4)]


def test_findings_are_bounded() -> None:
    wrong = [Link(n, b"x", b"y" * 32) for n in range(1, 5000)]
    assert len(verify(wrong, sidecar=SIDECAR)) == chain.MAX_FINDINGS
