"""Settings of the ledger and its reports."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field

from sentinel_extproc.config.sections import Section
from sentinel_extproc.config.values import Seconds


class Hop(StrEnum):
    """How usage gets from the outbox to Zion."""

    STREAM = "stream"
    DIRECT = "direct"


class Durability(StrEnum):
    """What a stored usage record survives."""

    PROCESS = "process"
    FSYNC = "fsync"


class UsageSettings(Section):
    """The outbox and its reports to Zion."""

    outbox_path: Path = Path("/var/lib/sentinel/outbox.db")
    """SQLite file; its folder is created. One process at a time; further workers have files of
    their own beside it."""
    max_bytes: int = Field(1 << 30, ge=1 << 20, le=1 << 40)
    """Bound of the outbox; at the bound new metered requests get 503. Workers share it out."""
    retain_days: float = Field(7.0, ge=0, le=3650)
    """How long billed records are kept for audit, if half of `max_bytes` has room for them."""
    sidecar_name: str | None = Field(None, pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    """What the ledger calls this sidecar, beside the id that it gives itself."""
    prices_file: Path | None = None
    """YAML file with prices by model; records then carry their cost."""
    durability: Durability = Durability.PROCESS
    """`process` survives kill -9; `fsync` also power loss, and costs a disk flush per commit."""
    hop: Hop = Hop.STREAM
    """`stream`: through Redis, so that any replica reports it, and what was handed over outlives
    this one's disk; straight to Zion while Redis is away. `direct`: always straight to Zion."""
    stream_shards: int = Field(1, ge=1, le=64)
    """Streams that usage is spread over, in a Redis Cluster; the same in every replica."""
    stream_window: int = Field(10_000, ge=1, le=10_000_000)
    """Most items of this sidecar in the stream at once, but at the end; the others wait their turn
    in the outbox."""
    stream_max_items: int = Field(100_000, ge=1, le=100_000_000)
    """Bound of each stream, all replicas' items together; an item takes about 1 kB of Redis."""
    orphan_seconds: float = Field(60.0, ge=5, le=86_400)
    """A sidecar that Redis hasn't heard of for so long is taken for dead; another one records what
    it had under way as unknown."""
    report_interval_seconds: Seconds = 5.0
    """Between reports while there is little to do."""
    batch_size: int = Field(1000, ge=1, le=1000)
    """Items in one report; Zion takes 1000."""
    on_ambiguous: Literal["retry", "park"] = "retry"
    """When an answer is lost after sending: send again, or leave it to a person."""
    shutdown_seconds: float = Field(10.0, ge=0, le=600)
    """For handing over and the last reports after SIGTERM; what is left is sent after the next
    start, or by another replica."""
