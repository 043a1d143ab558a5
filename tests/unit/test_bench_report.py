"""What `make bench` makes of its measurements."""

from __future__ import annotations

import json
import os
import time
from xml.etree import ElementTree as ET

import pytest

from bench.report import BEGIN, END, between, page, picture
from bench.results import Result, Run, Scenario, added, per_chunk_us, plan_seconds, targets
from bench.traffic import Call, cpu_seconds, family, resident_bytes
from bench.variants import FLOOR, OURS, PLAIN

OWN_FLOOR = "empty, own HTTP/2"
JSON = Scenario("JSON", 300, 0, 16)
ALONE = Scenario("alone", 300, 0, 1)
SHORT = Scenario("short", 300, 100, 16)
LONG = Scenario("long", 300, 500, 16)


def result(processor_us: float, p50_ms: float = 1.0, envoy_us: float = 100.0) -> Result:
    return Result(processor_us, envoy_us, 0.0, p50_ms, 2 * p50_ms, 1000.0)


def run() -> Run:
    return Run(
        about={"date": "2026-01-01"},
        scenarios=[ALONE, JSON, SHORT, LONG],
        results={
            ALONE.name: {
                PLAIN: [result(0, 1.0), result(0, 2.0)],
                FLOOR: [result(400, 3.0), result(400, 4.0)],
                OURS: [result(500, 4.0), result(500, 5.0)],
            },
            JSON.name: {
                PLAIN: [result(0)],
                FLOOR: [result(400), result(600), result(410)],
                OWN_FLOOR: [result(100)],
                OURS: [result(500), result(300), result(9000)],
                "LiteLLM 1, bare": [result(12_000, envoy_us=0)],
            },
            SHORT.name: {PLAIN: [result(0)], FLOOR: [result(10_000)], OURS: [result(11_000)]},
            LONG.name: {PLAIN: [result(0)], FLOOR: [result(50_000)], OURS: [result(51_000)]},
        },
        stages={JSON.name: {OURS: [result(500)], "- no logs": [result(400)]}},
        stream_bytes={OURS: 12_000.0},
        resident_bytes={OURS: 150 * 2**20},
        notes=["Portkey is left out: there is no node."],
    )


def test_it_is_written_and_read_again() -> None:
    assert Run.read(json.loads(json.dumps(run().plain()))) == run()
    with pytest.raises(ValueError, match="another format"):
        Run.read({"format": 0})


def test_what_is_added_is_compared_within_a_round() -> None:
    by = run().results[ALONE.name]
    assert added(by[OURS], by[PLAIN], lambda r: r.p50_ms) == (3.0, 3.0, 3.0)


def test_a_chunk_costs_what_long_streams_cost_more() -> None:
    assert per_chunk_us(run(), OURS) == 100.0
    assert per_chunk_us(run(), "nobody") is None


def test_targets_are_held_against_medians() -> None:
    found = targets(run(), ours=OURS, floor=FLOOR, own_floor=OWN_FLOOR, plain=PLAIN)
    assert [one.measured for one in found] == pytest.approx(
        [500 / 410, 500 / 410, 5.0, 1.0, 1.5, 12_000 / 500, 12_000 / 600, None, None]
    )
    assert [one.met for one in found] == [True, False, False, True, True, True, True, None, None]


def test_the_page_has_every_gateway_and_what_was_left_out() -> None:
    shown = page(run())
    for words in (OURS, FLOOR, "LiteLLM 1, bare", "- no logs", "there is no node", "12.0", "150"):
        assert words in shown
    assert "in the end, of the empty grpc.aio processor's | at most 1 | 1.22 | no |" in shown


def test_the_page_is_put_between_its_marks() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = between(text, "new")
    assert once == f"before\n{BEGIN}\n\nnew\n{END}\nafter\n"
    assert between(once, "new") == once
    with pytest.raises(ValueError, match="no <!--"):
        between("nothing", "new")


def test_the_picture_is_one_and_keeps_within_itself() -> None:
    drawn = ET.fromstring(picture(run()))  # noqa: S314 - our own
    _, _, width, height = map(float, drawn.attrib["viewBox"].split())
    boxes = [one for one in drawn.iter() if one.tag.endswith("rect")]
    assert len(boxes) > 8
    for box in boxes:
        assert float(box.attrib["x"]) + float(box.attrib["width"]) <= width
        assert float(box.attrib["y"]) + float(box.attrib["height"]) <= height
    assert "12,000" in "".join(drawn.itertext())


@pytest.mark.parametrize(
    ("budget", "fixed", "many", "expected"),
    [(720, 220, 100, 4.0), (720, 420, 150, 2.0), (60, 90, 9, 0.5)],
)
def test_what_fits_is_measured(budget: float, fixed: float, many: int, expected: float) -> None:
    planned = plan_seconds(budget, fixed_s=fixed, measurements=many, least=0.5, most=4.0)
    assert planned == expected


def test_a_process_is_seen_from_outside() -> None:
    pid = os.getpid()
    assert family(pid)[0] == pid
    before = cpu_seconds(pid)
    used = time.process_time()
    while time.process_time() < used + 0.05:
        pass
    assert cpu_seconds(pid) - before >= 0.05
    assert resident_bytes(pid) > 2**20


def test_a_request_is_whole() -> None:
    head, _, body = Call(300, 10, 0.5).request("t", headers={"x-a": "b"}).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert b"x-bench: 10 0.500000\r\nx-a: b\r\n" in head
    assert json.loads(body)["stream"] is True


def test_prompts_are_of_their_size_and_numbered_unless_told_otherwise() -> None:
    fresh, said = (Call(300, fresh=fresh).request("t") for fresh in (True, False))
    assert len(fresh) == len(said)
    assert (fresh.count(b"#number#"), said.count(b"#number#")) == (1, 0)
