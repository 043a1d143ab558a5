"""Settings that change while it runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel_extproc.config.load import ConfigError, load
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.limits.model import Subject
from sentinel_extproc.reloading.changes import LIVE, changed
from sentinel_extproc.reloading.reading import (
    CurrentPrice,
    Swappable,
    read_again,
    swappable,
)
from sentinel_extproc.reloading.reloader import Reloader
from sentinel_extproc.usage.record import Cost, TokenUsage, unpriced

SUBJECT = Subject("ada", "/v1/chat/completions", "chat.completions", "gpt-4o")

POLICY = """
rules: [{limits: [{name: %s, unit: requests, kind: ring, limit: 2, per: 1m}]}]
"""
PRICES = 'currency: USD\nmodels: {"*": {input: "%s", output: "1"}}'


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("SENTINEL_", "ZION_", "OPENAI_")):
            monkeypatch.delenv(name)
    write(tmp_path / "policy.yaml", POLICY % "first")
    write(tmp_path / "prices.yaml", PRICES % "1")
    file = tmp_path / "sentinel.yaml"
    write(file, settings_text(tmp_path))
    return file


def settings_text(folder: Path, more: str = "") -> str:
    return (
        "provider: {api_key: sk-1}\nzion: {url: 'http://zion', api_key: zk}\n"
        f"limits: {{policy_file: {folder / 'policy.yaml'}}}\n"
        f"usage: {{prices_file: {folder / 'prices.yaml'}}}\n{more}"
    )


def write(file: Path, text: str) -> None:
    """Replaces a file whole, as those who care do."""
    made = file.with_suffix(".new")
    made.write_text(text)
    made.replace(file)


class Running:
    """What a sidecar has in use."""

    def __init__(self, file: Path) -> None:
        self.current = swappable(load(file))
        self.swaps = 0
        self.asked = asyncio.Event()
        self.reloader = Reloader(
            self.current,
            read=lambda: read_again(file),
            swap=self.swap,
            config_file=file,
            asked=self.asked,
            interval_s=0.01,
        )

    def swap(self, new: Swappable) -> None:
        self.current = new
        self.swaps += 1

    @property
    def limits(self) -> list[str]:
        return [limit.name for limit in self.current.policy.limits_for(SUBJECT)]


async def eventually(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110 - files tell nobody
            await asyncio.sleep(0.005)


async def test_a_reload_takes_policy_and_prices_together(config_file: Path) -> None:
    running = Running(config_file)
    assert running.limits == ["first"]
    write(config_file.with_name("policy.yaml"), POLICY % "second")
    write(config_file.with_name("prices.yaml"), PRICES % "5")
    state = await running.reloader.reload()
    assert (state.taken, state.refused, state.faults, state.needs_restart) == (1, 0, (), ())
    assert running.limits == ["second"]
    cost = running.current.price("gpt-4o", None, TokenUsage(1_000_000, 0), 1)
    assert cost == Cost(5_000_000_000, "USD")


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("policy.yaml", "rules: [{limits: [{name: x}]}]", "rules.0.limits.0.unit"),
        ("prices.yaml", "currency: USD", "models"),
        ("sentinel.yaml", "zion: {url: nowhere}", "zion.url"),
        ("sentinel.yaml", "][", "not valid YAML"),
    ],
)
async def test_a_fault_anywhere_refuses_all_of_it(
    config_file: Path, name: str, text: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(config_file)
    write(config_file.with_name("policy.yaml"), POLICY % "second")
    write(config_file.with_name(name), text)
    state = await running.reloader.reload()
    assert (running.swaps, running.limits) == (0, ["first"])
    assert (state.taken, state.refused) == (0, 1)
    assert any(fault in one for one in state.faults), state.faults
    assert "reload_refused" in caplog.text


async def test_a_file_that_went_away_is_refused_and_its_return_is_taken(config_file: Path) -> None:
    running = Running(config_file)
    policy = config_file.with_name("policy.yaml")
    policy.unlink()
    assert (await running.reloader.reload()).refused == 1
    write(policy, POLICY % "second")
    assert (await running.reloader.reload()).faults == ()
    assert running.limits == ["second"]


async def test_what_needs_a_restart_is_named_and_the_rest_is_taken(config_file: Path) -> None:
    running = Running(config_file)
    write(config_file.with_name("policy.yaml"), POLICY % "second")
    more = "server: {drain_seconds: 1}\ntokens: {aliases: {nick: gpt-4o}}\nlogs: {level: error}"
    write(config_file, settings_text(config_file.parent, more))
    state = await running.reloader.reload()
    assert state.needs_restart == ("server.drain_seconds", "logs.level")
    assert running.limits == ["second"]
    assert running.current.models.resolve("nick").family == "gpt-4o"
    # Set back, it needs none any more.
    write(config_file, settings_text(config_file.parent))
    assert (await running.reloader.reload()).needs_restart == ()


async def test_a_bug_in_reading_refuses_and_is_told(config_file: Path) -> None:
    running = Running(config_file)

    def broken() -> Swappable:
        raise RuntimeError("a bug with a secret in it")

    reloader = Reloader(
        running.current,
        read=broken,
        swap=running.swap,
        config_file=config_file,
        asked=asyncio.Event(),
    )
    state = await reloader.reload()
    assert state.faults == ("internal fault: RuntimeError",)


async def test_a_changed_file_is_taken_by_itself(config_file: Path) -> None:
    running = Running(config_file)
    running.reloader.start()
    try:
        write(config_file.with_name("policy.yaml"), POLICY % "second")
        await eventually(lambda: running.limits == ["second"])
        write(config_file.with_name("policy.yaml"), "rules: nonsense")
        await eventually(lambda: running.reloader.state.refused == 1)
        assert running.limits == ["second"]
        # Another file is named from now on, and watched.
        write(config_file.with_name("other.yaml"), POLICY % "third")
        text = settings_text(config_file.parent).replace("policy.yaml", "other.yaml")
        write(config_file, text)
        await eventually(lambda: running.limits == ["third"])
        write(config_file.with_name("other.yaml"), POLICY % "fourth")
        await eventually(lambda: running.limits == ["fourth"])
    finally:
        await running.reloader.aclose()


async def test_asking_reloads_without_any_change(config_file: Path) -> None:
    running = Running(config_file)
    running.reloader.start()
    try:
        running.asked.set()
        await eventually(lambda: running.swaps == 1)
        running.asked.set()
        await eventually(lambda: running.swaps == 2)
    finally:
        await running.reloader.aclose()


def test_every_live_setting_exists() -> None:
    for name in LIVE:
        section, _, field = name.partition(".")
        section_type = Settings.model_fields[section].annotation
        assert section_type is not None
        assert field in section_type.model_fields


def test_changes_are_named_and_never_shown(config_file: Path) -> None:
    old = load(config_file)
    write(config_file, settings_text(config_file.parent).replace("sk-1", "sk-2"))
    assert list(changed(old, load(config_file))) == ["provider.api_key"]
    assert list(changed(old, old)) == []


def test_a_fault_is_a_fault_of_the_configuration(config_file: Path) -> None:
    write(config_file, "{}")
    with pytest.raises(ConfigError):
        read_again(config_file)


def test_the_price_of_the_moment() -> None:
    price = CurrentPrice(unpriced)
    assert price("m", None, TokenUsage(), 1) is None
    price.price = lambda *_: Cost(1, "USD")
    assert price("m", None, TokenUsage(), 1) == Cost(1, "USD")


KEY = "'" + "ab" * 32 + "'"


async def test_static_keys_are_taken_and_refused_like_the_others(config_file: Path) -> None:
    keys = config_file.with_name("keys.yaml")
    write(keys, f"[{{sha256: {KEY}, external_id: ada}}]")
    more = f"identity: {{source: static, static_keys_file: {keys}}}\n"
    write(config_file, settings_text(config_file.parent, more))
    running = Running(config_file)
    assert [one.external_id for one in running.current.static_keys.values()] == ["ada"]
    running.reloader.start()
    try:
        write(keys, f"[{{sha256: {KEY}, external_id: bo}}]")
        await eventually(lambda: running.swaps == 1)
        assert [one.external_id for one in running.current.static_keys.values()] == ["bo"]
        write(keys, "[{sha256: 'no digest', external_id: bo}]")
        await eventually(lambda: running.reloader.state.refused == 1)
    finally:
        await running.reloader.aclose()
    assert "sha256 must be 64 hex digits" in running.reloader.state.faults[0]
    assert [one.external_id for one in running.current.static_keys.values()] == ["bo"]
