"""What a sidecar says of its start: what was decided, what is missing and why, and no secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from sentinel_extproc.config.settings import Settings
from sentinel_extproc.errors import Unavailable
from sentinel_extproc.limits.policy import Match, Policy, Rule
from sentinel_extproc.redis_parts import RedisFound
from sentinel_extproc.reloading.reading import swappable
from sentinel_extproc.start_report import Findings, tell_start
from sentinel_extproc.telemetry.logs import configure
from sentinel_extproc.usage.item_queue import Backlog, ItemState
from sentinel_extproc.usage.outbox import Outbox

SECRETS = (
    "sk-provider-key",
    "zion-key-1",
    "redis-pass-1",
    "sk-azure-key",
    "admin-token-0123456789abcdef",
)
UP = RedisFound("cluster", "Redis 7.4.1, Valkey 8.0.1")
AWAY = RedisFound("standalone", problem="Redis: ConnectionError: Error 111 connecting to db:6379.")


def settings(**more: Any) -> Settings:
    return Settings.model_validate(
        {
            "provider": {"api_key": SECRETS[0]},
            "providers": [
                {
                    "name": "azure-eu",
                    "kind": "azure",
                    "api_key": SECRETS[3],
                    "path_prefix": "/azure/",
                    "url": "https://eu.azure.example",
                }
            ],
            "zion": {"url": "https://zion.example", "api_key": SECRETS[1]},
            "redis": {"url": f"redis+cluster://sidecar:{SECRETS[2]}@db-1,db-2"},
            "admin": {"token": SECRETS[4]},
            **more,
        }
    )


@dataclass
class FakeOutbox:
    fault: str = ""
    fill: float = 0.25

    def check_room(self) -> None:
        if self.fault:
            raise Unavailable(self.fault)

    async def backlog(self) -> Backlog:
        if self.fault:
            raise Unavailable(self.fault)
        return Backlog(3, dict.fromkeys(ItemState, 0) | {ItemState.READY: 4})


@pytest.fixture
def put_back() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("", "sentinel", "sentinel_extproc")]
    before = [(list(one.handlers), one.level) for one in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
    structlog.reset_defaults()


async def told(
    said: Settings,
    *,
    redis: RedisFound = UP,
    zion: str = "",
    outbox: FakeOutbox | None = None,
    policy: Policy | None = None,
    json_lines: bool = True,
) -> str:
    stream = io.StringIO()
    configure(level="info", json_lines=json_lines, stream=stream)
    found = Findings(
        redis=redis,
        zion=zion,
        policy=policy or swappable(said).policy,
        outbox=cast("Outbox", outbox or FakeOutbox()),
        file=Path("/var/lib/sentinel/outbox.worker-1.db"),
    )

    async def find() -> Findings:
        return found

    await tell_start(said, find, listen="unix:/run/s-1.sock", workers=2, seconds=0.41234)
    return stream.getvalue()


async def test_what_goes_wrong_in_looking_ends_nothing(put_back: None) -> None:
    async def find() -> Findings:
        raise RuntimeError("a fault of ours")

    stream = io.StringIO()
    configure(level="info", json_lines=True, stream=stream)
    await tell_start(settings(), find, listen="unix:/run/s.sock", workers=1, seconds=0.1)
    line = json.loads(stream.getvalue())
    assert (line["level"], line["event"]) == ("error", "start_not_told")
    assert "a fault of ours" in line["exception"]


async def test_a_start_says_what_was_found_and_decided(put_back: None) -> None:
    shadow = settings(server={"mode": "shadow", "workers": 2})
    text = await told(shadow)
    line = json.loads(text)
    assert {name: line[name] for name in line if name not in ("time", "version")} == {
        "level": "info",
        "logger": "sentinel.app",
        "event": "serving",
        "listen": "unix:/run/s-1.sock",
        "seconds": 0.412,
        "mode": "shadow",
        "metering": "stream",
        "workers": 2,
        "admin": "127.0.0.1:9180",
        "identity": "zion",
        "providers": ["azure-eu", "default"],
        "redis": {
            "reached": True,
            "topology": "cluster",
            "version": "Redis 7.4.1, Valkey 8.0.1",
            "url": "redis+cluster://sidecar:**********@db-1,db-2",
        },
        "zion": {"reached": True, "url": "https://zion.example"},
        "limits": {"count": 1, "from": "limits.requests", "zion_quotas": True},
        "outbox": {
            "path": "/var/lib/sentinel/outbox.worker-1.db",
            "hop": "stream",
            "fill": 0.25,
            "undelivered": 7,
        },
        "not_ready": {},
    }
    assert not any(secret in text for secret in SECRETS)


async def test_what_is_missing_is_told_with_the_reason_and_what_follows(put_back: None) -> None:
    plain = settings(admin={"enabled": False})
    full = FakeOutbox("Too much usage waits to be billed.")
    text = await told(plain, redis=AWAY, zion="no answer in time", outbox=full)
    line = json.loads(text)
    assert line["level"] == "warning"
    assert line["admin"] == "off"
    assert line["redis"]["reached"] is line["zion"]["reached"] is False
    assert "version" not in line["redis"]
    missing = line["not_ready"]
    assert list(missing) == ["redis", "zion", "outbox"]
    assert "connecting to db:6379; until then each limit goes by its on_outage" in missing["redis"]
    assert missing["zion"].startswith("no answer in time; until then known users")
    assert missing["outbox"] == line["outbox"]["fault"] == full.fault
    assert not any(secret in text for secret in SECRETS)


async def test_a_limit_that_several_rules_name_is_one(put_back: None, tmp_path: Path) -> None:
    said = settings()
    (limit,) = (limit for rule in swappable(said).policy.rules for limit in rule.limits)
    twice = Policy((Rule((limit,), Match(user=("root",))), Rule((limit,))))
    file = tmp_path / "policy.yaml"
    file.write_text("rules: []\n")
    at_file = said.model_copy(
        update={"limits": said.limits.model_copy(update={"policy_file": file})}
    )
    line = json.loads(await told(at_file, policy=twice))
    assert (line["limits"]["count"], line["limits"]["from"]) == (1, str(file))


async def test_for_people_each_part_has_a_line_of_its_own(put_back: None) -> None:
    text = await told(settings(), redis=AWAY, zion="no\x1b[2J answer", json_lines=False)
    lines = text.splitlines()
    assert "serving" in lines[0]
    assert "providers='azure-eu, default'" in lines[0]
    starts = [line[:22].strip() for line in lines[1:]]
    assert starts == ["redis", "zion", "limits", "outbox", "not ready", ""]
    assert "reached: no, topology: standalone" in lines[1]
    assert lines[-2][22:].startswith("redis: Redis: ConnectionError")
    assert lines[-1][22:].startswith("zion: no\\x1b[2J answer; until then")
    assert all(line.isprintable() for line in lines)
    assert "{" not in text
