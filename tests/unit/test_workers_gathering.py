"""What processes told, put together by one at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sentinel_extproc.workers.drawer import Drawer, Kind
from sentinel_extproc.workers.gathering import Gathering
from sentinel_extproc.workers.shelf import Roster


@dataclass
class Slow:
    """Puts numbers together when it is let; notes how many do so at once."""

    let: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    at_work: int = 0
    most_at_work: int = 0

    def together(self, several: object) -> int:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        self.begun.set()
        self.let.wait(10)
        self.at_work -= 1
        return 0


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.let.set()


@pytest.fixture
def gathering(tmp_path: Path, slow: Slow) -> Gathering[int]:
    (tmp_path / "1.number").write_bytes(b"7")
    kind = Kind(
        "number",
        none=0,
        pack=lambda number: b"%d" % number,
        unpack=int,
        later=max,
        together=slow.together,
    )
    return Gathering(Drawer(tmp_path, kind), lambda: Roster(seats=1, last=1))


async def nobody() -> dict[int, int]:
    return {}


@pytest.mark.parametrize("asked", [True, False])
async def test_who_gives_up_holds_the_place_until_the_files_are_put_together(
    gathering: Gathering[int], slow: Slow, *, asked: bool
) -> None:
    first = asyncio.create_task(_one(gathering, asked=asked))
    await asyncio.to_thread(slow.begun.wait, 10)
    second = asyncio.create_task(gathering.tidy())
    for _ in range(3):
        first.cancel()
        await _turns()
        assert not first.done()
    slow.let.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert slow.most_at_work == 1


async def _one(gathering: Gathering[int], *, asked: bool) -> None:
    if asked:
        await gathering.ask(nobody)
    else:
        await gathering.tidy()


async def _turns() -> None:
    """Whatever can go on does."""
    for _ in range(10):
        await asyncio.sleep(0)
