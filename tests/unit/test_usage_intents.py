"""Intents: in the file before anything is forwarded, gone once the record is durable."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage import intent_slots, reading
from sentinel_extproc.usage.files import intents_path
from sentinel_extproc.usage.intents import Intents
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Intent, Outcome, UsageRecord
from sentinel_extproc.usage.slots import CAPACITY, SLOT_BYTES, TornSlotError, head
from tests.ledger_fakes import intent


def record(number: int = 0) -> UsageRecord:
    return replace(intent(number).unknown(), outcome=Outcome.COMPLETED, requests=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def opened(path: Path, slots: int = 4) -> tuple[Intents, list[Intent]]:
    intents = Intents(path, slots=slots)
    return intents, intents.open()


def slot(payload: bytes) -> bytes:
    return (head(payload) + payload).ljust(SLOT_BYTES, b"\0")


texts = st.text(max_size=400)


@given(
    st.builds(
        Intent,
        id=texts,
        occurred_at_ms=st.integers(0, 2**53),
        external_id=texts,
        email=texts,
        endpoint=texts,
        model=texts,
        request_id=st.none() | texts,
        predicted_input_tokens=st.integers(-5, 2**70),
        reserved_output_tokens=st.integers(-5, 2**70),
    )
)
def test_every_intent_fits_and_comes_back(one: Intent) -> None:
    payload = intent_slots.encode(one)
    assert len(payload) <= CAPACITY
    found = intent_slots.decode(slot(payload))
    assert found is not None
    assert intent_slots.encode(found) == payload
    assert found.occurred_at_ms == one.occurred_at_ms


def test_a_usual_intent_comes_back_whole() -> None:
    assert intent_slots.decode(slot(intent_slots.encode(intent()))) == intent()


@given(st.integers(0, 7 + len(intent_slots.encode(intent()))), st.integers(1, 255))
def test_any_changed_byte_is_noticed(place: int, change: int) -> None:
    data = bytearray(slot(intent_slots.encode(intent())))
    data[place] ^= change
    try:
        assert intent_slots.decode(bytes(data)) is None
        assert data[4:8] == bytes(4)  # marked as free
    except TornSlotError:
        pass


def test_what_is_under_way_is_found_again_and_what_ended_is_not(path: Path) -> None:
    intents, left = opened(path)
    assert left == []
    for number in range(3):
        intents.begin(intent(number))
    intents.end([intent(1).id, "unheard of"])
    assert [one.id for one in intents.under_way()] == [intent(0).id, intent(2).id]
    intents.close()
    again, left = opened(path)
    assert left == [intent(0), intent(2)]
    assert again.in_use == 2
    again.end([intent(0).id, intent(2).id])
    again.close()
    assert opened(path)[1] == []


def test_slots_are_bounded_and_used_again(path: Path) -> None:
    intents, _ = opened(path)
    for number in range(4):
        intents.begin(intent(number))
    with pytest.raises(Unavailable) as caught:
        intents.begin(intent(4))
    assert caught.value.code == "usage_unavailable"
    intents.end([intent(2).id])
    intents.begin(intent(4))
    intents.close()
    intents.close()
    with pytest.raises(Unavailable):
        intents.begin(intent(5))
    assert {one.id for one in opened(path)[1]} == {intent(n).id for n in (0, 1, 3, 4)}


@pytest.mark.parametrize("slots", [1, 4, 50])
def test_another_size_keeps_what_is_under_way(path: Path, slots: int) -> None:
    intents, _ = opened(path, 4)
    for number in range(3):
        intents.begin(intent(number))
    intents.close()
    again, left = opened(path, slots)
    assert left == [intent(number) for number in range(3)]
    assert again.in_use == 3
    again.close()
    again, left = opened(path, slots)
    assert len(left) == 3
    again.close()


def test_a_torn_slot_is_counted_told_and_freed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    intents, _ = opened(path)
    intents.begin(intent(0))
    intents.begin(intent(1))
    intents.close()
    data = bytearray(path.read_bytes())
    place = data.index(b"0198c0de-0000-7000-8000-000000000000")
    data[place] ^= 1
    path.write_bytes(data)
    again, left = opened(path)
    assert left == [intent(1)]
    assert again.torn == 1
    assert "8c0de" in caplog.text
    again.close()
    assert opened(path)[0].torn == 0


@pytest.mark.parametrize("damage", [b"no intents at all", b"SENTINT1" + bytes(9000)])
def test_a_damaged_file_is_kept_aside(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    intents, left = opened(path)
    intents.begin(intent())
    intents.close()
    assert left == []
    (kept,) = path.parent.glob("*.damaged-*")
    assert kept.read_bytes() == damage


async def test_an_append_ends_its_intent_even_if_nobody_waits_for_it(path: Path) -> None:
    outbox = Outbox(path)
    outbox.open()
    for number in range(3):
        outbox.begin(intent(number))
    assert (outbox.intents_in_use, len(outbox.under_way())) == (3, 3)
    await outbox.append(record(0))
    assert outbox.intents_in_use == 2
    left = asyncio.create_task(outbox.append(record(1)))
    await asyncio.sleep(0)
    left.cancel()
    await outbox.append(record(2))
    assert outbox.intents_in_use == 0
    await outbox.aclose()


async def test_what_is_abandoned_is_unknown_unless_it_has_its_record(path: Path) -> None:
    outbox = Outbox(path)
    outbox.open()
    for number in range(2):
        outbox.begin(intent(number))
    await outbox.abandon(intent(0).id)
    await outbox.append(record(1))
    await outbox.abandon(intent(1).id)
    await outbox.abandon("unheard of")
    state = await outbox.ledger()
    assert (state.unknown, state.head.seq, outbox.intents_in_use) == (1, 2, 0)
    await outbox.aclose()


WORKER = """
import asyncio, os, sys
from pathlib import Path
from sentinel_extproc.usage.outbox import Outbox
sys.path.insert(0, sys.argv[2])
from test_usage_intents import intent, record

async def main():
    outbox = Outbox(Path(sys.argv[1]), fsync=sys.argv[3] == "fsync")
    outbox.open()
    for number in range(6):
        outbox.begin(intent(number))
    await outbox.append(record(1))
    await outbox.append(record(4))
    os.write(1, b"ready")
    await asyncio.sleep(600)

asyncio.run(main())
"""


def run_and_kill(path: Path, durability: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), str(Path(__file__).parent), durability],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(5) == b"ready"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    process.stdout.close()


@pytest.mark.parametrize("durability", ["process", "fsync"])
async def test_what_was_under_way_at_kill_9_is_on_record_as_unknown_once(
    path: Path, durability: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_and_kill(path, durability)
    for _ in range(2):
        outbox = Outbox(path)
        outbox.open()
        found = {kept.id: kept for _, kept in reading.records(path, 100, 0)}
        assert (await outbox.ledger()).unknown == 4
        assert outbox.intents_in_use == 0
        await outbox.aclose()
    assert {i for i, kept in found.items() if kept.outcome is Outcome.UNKNOWN} == {
        intent(n).id for n in (0, 2, 3, 5)
    }
    assert len(found) == 6
    assert found[intent(3).id] == intent(3).unknown()
    assert intent(3).id in caplog.text


async def test_a_record_that_was_stored_but_not_ticked_off_is_not_unknown(path: Path) -> None:
    outbox = Outbox(path)
    outbox.open()
    outbox.begin(intent())
    before = intents_path(path).read_bytes()
    await outbox.append(record())
    await outbox.aclose()
    intents_path(path).write_bytes(before)  # as if it had died between the two
    outbox = Outbox(path)
    outbox.open()
    state = await outbox.ledger()
    assert (state.unknown, state.head.seq) == (0, 1)
    assert outbox.intents_in_use == 0
    await outbox.aclose()
