"""The scenario can fail: against a provider without a gateway, every governed step does."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from sentinel_extproc.config.load import load
from sentinel_extproc.demo.billing import Amounts, Bill, LedgerBill, Line, UsedBill, total
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.openai_standin import OpenAIStandIn
from sentinel_extproc.demo.process import StartError
from sentinel_extproc.demo.scenario import Person, Scenario, StepFailed, bill_table
from sentinel_extproc.demo.sidecar import sidecar_environment
from sentinel_extproc.demo.stack import Services, _environment, provider_address
from sentinel_extproc.demo.zion_standin import DEMO_USERS, ZionStandIn

ADA = Person("ext-ada", "demo-ada")


class WordPerToken:
    """A tokenizer without data files: one token per word."""

    def pieces(self, model: str, text: str) -> list[bytes]:
        return [word.encode() + b" " for word in text.split()]


class FixedBill:
    """A bill that never changes."""

    by_model = True

    def __init__(self, bill: Bill) -> None:
        self._bill = bill

    def read(self) -> Bill:
        return self._bill


@pytest.fixture
def ungoverned() -> Iterator[tuple[OpenAIStandIn, str]]:
    provider = OpenAIStandIn(provider_key=ADA.token, counter=WordPerToken())
    with serve_app(provider.app, name="provider") as hosted:
        yield provider, hosted.url


def scenario(
    ungoverned: tuple[OpenAIStandIn, str], bill: Bill, console: Console | None = None
) -> Scenario:
    provider, url = ungoverned
    return Scenario(
        console=console or Console(file=io.StringIO()),
        base_url=url,
        chatting=ADA,
        spending=ADA,
        request_limit=2,
        billing=FixedBill(bill),
        provider=provider,
        billing_timeout_s=0,
    )


def test_chats_hold_without_a_gateway_and_nothing_else_does(
    ungoverned: tuple[OpenAIStandIn, str],
) -> None:
    shown = io.StringIO()
    with closing(scenario(ungoverned, {}, Console(file=shown, width=200))) as played:
        assert played.run() is False
    marks = [line[0] for line in shown.getvalue().splitlines() if line[:2] in {"✓ ", "✗ "}]
    assert marks == ["✓", "✓", "✗", "✗", "✗", "✗"]
    assert "reached the provider all the same" in shown.getvalue()
    assert "12 requests were let through" in shown.getvalue()
    assert "the bill is not what was used" in shown.getvalue()
    assert "without the provider's own key reached it" in shown.getvalue()


def test_a_users_token_at_the_provider_is_noticed(ungoverned: tuple[OpenAIStandIn, str]) -> None:
    with closing(scenario(ungoverned, {})) as played:
        played.chat()
        with pytest.raises(StepFailed, match="a user's token reached it in authorization"):
            played.provider_saw()


def test_a_bill_that_equals_what_was_used_holds(ungoverned: tuple[OpenAIStandIn, str]) -> None:
    provider, _ = ungoverned
    with closing(scenario(ungoverned, {})) as played:
        played.chat()
    (served,) = provider.served()
    line = Line("ext-ada", "gpt-4o-mini")
    used = Amounts(1, served.prompt_tokens, served.completion_tokens)
    played._billing = FixedBill({line: used})
    assert played.billed().startswith("1 requests billed")
    played._billing = FixedBill({line: used + Amounts(output_tokens=1)})
    with pytest.raises(StepFailed):
        played.billed()
    played._billing = FixedBill({line: used, Line("ext-bo", "gpt-4o-mini"): Amounts()})
    with pytest.raises(StepFailed):
        played.billed()


def test_the_bill_is_shown_line_by_line() -> None:
    shown = io.StringIO()
    one, two = Line("a", "m"), Line("b", "")
    Console(file=shown, width=120).print(
        bill_table({one: Amounts(1, 2, 3)}, {one: Amounts(1, 2, 3), two: Amounts(4, 5, 6)})
    )
    rows = [line for line in shown.getvalue().splitlines() if "→" in line and "│" in line]
    assert "✓" in rows[0]
    assert "3 → 3" in rows[0]
    assert "✗" in rows[1]
    assert "all" in rows[1]
    assert "0 → 6" in rows[1]


def billed(zion: ZionStandIn, **fields: object) -> None:
    item = {"email": "ada@example.com", "aiRequests": 1, "aiInputTokens": 2, "aiOutputTokens": 3}
    zion._state.apply(item | fields, batch_key=None)


def test_the_ledger_is_read_from_where_it_stood_under_the_names_asked_for() -> None:
    zion = ZionStandIn(api_key="k", users=DEMO_USERS)
    billed(zion, model="gpt-4o")
    bill = LedgerBill(zion, aliases={"gpt-4o": "gpt-4o-2024-08-06"})
    assert bill.read() == {}
    billed(zion, model="gpt-4o")
    billed(zion, model="gpt-4o-2024-08-06")
    billed(zion, model="o3")
    assert bill.read() == {
        Line("ext-ada", "gpt-4o"): Amounts(2, 4, 6),
        Line("ext-ada", "o3"): Amounts(1, 2, 3),
    }


def test_what_a_real_zion_says_is_read_as_a_difference() -> None:
    zion = ZionStandIn(api_key="k", users=DEMO_USERS)
    with serve_app(zion.app, name="zion") as hosted:
        billed(zion)
        bill = UsedBill(url=hosted.url, api_key="k", token="demo-ada")
        billed(zion)
        assert bill.external_id == "ext-ada"
        assert bill.read() == {Line("ext-ada", ""): Amounts(1, 2, 3)}


def test_totals_add_up() -> None:
    line = Line("a", "m")
    assert total([(line, Amounts(1, 2, 3)), (line, Amounts(1, 1, 1))]) == {line: Amounts(2, 3, 4)}
    assert Amounts(2, 3, 4) - Amounts(1, 1, 1) == Amounts(1, 2, 3)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.openai.com", ("api.openai.com", 443, True)),
        ("https://api.openai.com/v1/", ("api.openai.com", 443, True)),
        ("http://127.0.0.1:81", ("127.0.0.1", 81, False)),
        ("http://[::1]", ("::1", 80, False)),
    ],
)
def test_the_providers_address(url: str, expected: tuple[str, int, bool]) -> None:
    assert provider_address(url) == expected


@pytest.mark.parametrize(
    "url", ["api.openai.com", "ftp://x", "https://", "https://x:99999", "https://x/openai/v1"]
)
def test_a_providers_url_that_cannot_be_used_is_told(url: str) -> None:
    with pytest.raises(StartError, match="OPENAI_API_URL"):
        provider_address(url)


def test_nothing_outside_changes_the_sidecar_unless_wanted() -> None:
    outside = {
        "PATH": "/bin",
        "SENTINEL_LIMITS__REQUESTS": "1",
        "SENTINEL_DEMO_TOKEN": "secret",
        "SENTINEL_ADMIN__TOKEN_FILE": "/theirs",
        "ZION_API_KEY": "z",
        "OPENAI_API_KEY": "o",
        "REDIS_URL": "r",
        "CACHE_TTL_SECONDS": "5",
    }
    told = {"REDIS_URL": "ours"}
    alone = sidecar_environment(told, inherited=outside)
    assert alone == {"PATH": "/bin", "PYTHONUNBUFFERED": "1", "REDIS_URL": "ours"}
    kept = sidecar_environment(told, inherited=outside, keep=True)
    assert "SENTINEL_DEMO_TOKEN" not in kept
    assert "SENTINEL_ADMIN__TOKEN_FILE" not in kept
    assert kept["SENTINEL_LIMITS__REQUESTS"] == "1"
    assert kept["REDIS_URL"] == "ours"


def test_stacks_beside_each_other_share_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _environment(
        work_dir=tmp_path,
        redis_url=f"unix://{tmp_path}/redis.sock?db=0",
        services=Services("http://127.0.0.1:1", "o", "http://127.0.0.1:2", "z"),
        settings={"SENTINEL_SERVER__LISTEN": f"unix:{tmp_path}/sentinel.sock"},
        stand_ins=True,
    )
    for name in [name for name in os.environ if name.startswith("SENTINEL_")]:
        monkeypatch.delenv(name)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.admin.enabled
    listening = [settings.server.listen, settings.admin.listen]
    assert all(address.startswith(f"unix:{tmp_path}/") for address in listening)
    assert len(set(listening)) == 2
