"""The ledger's commands on a real outbox, beside its writer and without it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sentinel_extproc.admin.guard import Access
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.admin.server import AdminServer
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.zion_standin import DEMO_USERS, ZionStandIn
from sentinel_extproc.usage.ended import Ended
from sentinel_extproc.usage.files import ended_path
from sentinel_extproc.usage.item_queue import Refusal, Settlement
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.reporter import Reporter
from sentinel_extproc.usage.rows import record_row
from sentinel_extproc.usage_cli import ledger_file
from sentinel_extproc.usage_cli.columns import Delivery
from sentinel_extproc.usage_cli.group import usage
from sentinel_extproc.usage_cli.wording import FACTS, OUTCOMES, PROVENANCES, STATES
from sentinel_extproc.zion.client import ZionClient

HOSTILE = "=x\x1b[2J[bold]"
DAY = 1_795_392_000_000  # 2026-11-23


def record(number: int, *, user: str = "ada", model: str = "gpt-4o") -> UsageRecord:
    return UsageRecord(
        id=f"r{number}",
        occurred_at_ms=DAY + number * 60_000,
        external_id=f"ext-{user}",
        email=f"{user}@example.com",
        endpoint="chat.completions",
        model_requested=model,
        model_served=None,
        requests=1,
        usage=TokenUsage(10 + number, 20 + number),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path / "outbox.db"


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Outbox]:
    outbox = Outbox(path)
    outbox.open()
    try:
        yield outbox
    finally:
        await outbox.aclose()


async def fill(outbox: Outbox) -> None:
    """Ada's and Bo's are billed, a hostile one is dead, Cy's is parked, one isn't sealed."""
    for number in range(4):
        await outbox.append(record(number, user=("ada", "bo")[number % 2]))
    await outbox.append(record(4, model=HOSTILE))
    await outbox.append(record(5, user="cy"))
    claimed = [queued.item for queued in await outbox.sending(await outbox.claim(100))]
    held = {item.id for item in claimed if item.model == HOSTILE or item.external_id == "ext-cy"}
    await outbox.settle(
        Settlement(
            acknowledged=tuple(item.id for item in claimed if item.id not in held),
            refused=tuple(
                Refusal(item.id, "no \x1b[31muser", None)
                for item in claimed
                if item.model == HOSTILE
            ),
            parked=tuple(item.id for item in claimed if item.external_id == "ext-cy"),
        )
    )
    await outbox.append(record(6))


@pytest.fixture
async def filled(path: Path) -> Path:
    async with opened(path) as outbox:
        await fill(outbox)
    return path


async def run(path: Path, *arguments: str, stdin: str | None = None) -> Result:
    command, *rest = arguments
    given = [command, "--outbox", str(path), *rest]
    return await asyncio.to_thread(CliRunner().invoke, usage, given, input=stdin)


def lines(result: Result) -> list[dict[str, object]]:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


async def test_status(filled: Path) -> None:
    shown = await run(filled, "status")
    [facts] = lines(await run(filled, "status", "--json"))
    assert shown.exit_code == 1  # somebody has to decide
    assert (facts["records"], facts["unsealed_records"]) == (7, 1)
    assert (facts["dead_items"], facts["parked_items"], facts["billed_items"]) == (1, 1, 2)
    assert str(facts["head"]).startswith("7:")
    assert str(facts["head"]) in shown.stdout
    assert "Zion refused: a person must decide" in shown.stdout
    assert set(facts) == set(FACTS), "every fact has words of its own"
    assert not any(name in shown.stdout for name in ("unsealed", "dead items"))


async def test_status_tells_of_what_a_killed_sidecar_left_beside_the_outbox(filled: Path) -> None:
    [facts] = lines(await run(filled, "status", "--json"))
    assert facts["unstored_records"] == 0
    ended = Ended(ended_path(filled))
    ended.open()
    for number in (100, 101):
        assert ended.keep(record_row(record(number)))
    ended.close()
    [facts] = lines(await run(filled, "status", "--json"))
    assert (facts["unstored_records"], facts["records"]) == (2, 7)


async def test_the_configuration_says_where_the_outbox_is(filled: Path, tmp_path: Path) -> None:
    # The rest of it needs secrets that whoever looks may not have.
    file = tmp_path / "sentinel.yaml"
    file.write_text(f"usage: {{outbox_path: {filled}}}\nzion: {{url: 'http://zion'}}\n")
    shown = CliRunner().invoke(usage, ["status", "--json"], env={"SENTINEL_CONFIG": str(file)})
    assert lines(shown)[0]["records"] == 7
    file.write_text("usage: {outbox_path: [")
    shown = CliRunner().invoke(usage, ["status"], env={"SENTINEL_CONFIG": str(file)})
    assert (shown.exit_code, "not valid YAML" in shown.output) == (2, True)


async def test_list_beside_the_writer(path: Path) -> None:
    async with opened(path) as outbox:
        await fill(outbox)
        listed = lines(await run(path, "list", "--json"))
        shown = await run(path, "list")
    assert [one["seq"] for one in listed] == [7, 6, 5, 4, 3, 2, 1]
    states = ["unsealed", "parked", "dead", *["billed"] * 4]
    assert [one["state"] for one in listed] == states
    assert shown.exit_code == 0
    assert "=x\\x1b[2J[bold]" in shown.stdout
    assert "\x1b[2J" not in shown.stdout
    told = [one for one in shown.stdout.splitlines() if one.startswith(("state", "numb", "ended"))]
    assert [one.partition(":")[0] for one in told] == [
        "state unsealed", "state parked", "state dead", "state billed", "numbers provider",
        "ended completed",
    ]  # fmt: skip


def test_every_word_of_the_ledger_is_explained() -> None:
    assert [set(STATES), set(PROVENANCES), set(OUTCOMES)] == [
        set(Delivery),
        set(Provenance),
        set(Outcome),
    ]


@pytest.mark.parametrize(
    ("arguments", "seqs"),
    [
        (["--user", "ext-bo"], [2, 4]),
        (["--user", "bo@example.com"], [2, 4]),
        (["--model", HOSTILE], [5]),
        (["--since", "2026-11-23T00:02", "--until", "2026-11-23T00:04"], [3, 4]),
        (["--state", "billed", "--user", "ext-ada"], [1, 3]),
        (["--outcome", "unknown"], []),
        (["--provenance", "provider", "--limit", "2"], [1, 2]),
        (["--limit", "0"], [1, 2, 3, 4, 5, 6, 7]),
    ],
)
@pytest.mark.parametrize("span", [1, 3, 2000])
async def test_filters(
    filled: Path,
    arguments: list[str],
    seqs: list[int],
    span: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger_file, "SPAN", span)
    listed = lines(await run(filled, "list", "--oldest-first", "--json", *arguments))
    assert [one["seq"] for one in listed] == seqs


async def test_export(filled: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    done = await run(filled, "export", "--format", "csv", "-o", str(target))
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(io.StringIO(target.read_text("utf-8"))))
    assert len(rows) == 7
    assert rows[4]["model_requested"] == "'=x\\x1b[2J[bold]"
    focus = list(
        csv.DictReader(io.StringIO((await run(filled, "export", "--format", "focus")).stdout))
    )
    assert sum(int(row["ConsumedQuantity"]) for row in focus) == sum(30 + 2 * n for n in range(7))
    exact = lines(await run(filled, "export"))
    assert exact[4]["model_requested"] == HOSTILE


async def test_dead_letters(filled: Path) -> None:
    shown = await run(filled, "dead-letters")
    listed = lines(await run(filled, "dead-letters", "--json"))
    assert shown.exit_code == 1
    assert "no \\x1b[31muser" in shown.stdout
    assert [(one["state"], one["external_id"]) for one in listed] == [
        ("dead", "ext-ada"),
        ("parked", "ext-cy"),
    ]
    assert (await run(filled, "dead-letters", "--user", "ext-bo")).exit_code == 0


async def test_replay_without_a_sidecar(filled: Path) -> None:
    refused = await run(filled, "replay", "--all")
    assert refused.exit_code == 2
    assert "--yes" in refused.output
    [done] = lines(await run(filled, "replay", "--all", "--user", "ext-cy", "--yes", "--json"))
    assert done == {"asked": 1, "replayed": 1}
    left = lines(await run(filled, "dead-letters", "--json"))
    again = await run(filled, "replay", "--yes", str(left[0]["id"]), "nothing")
    assert again.exit_code == 1
    assert "1 of 2" in again.stdout
    [facts] = lines(await run(filled, "status", "--json"))
    assert facts["ready_items"] == 2


async def test_replay_through_the_sidecar_that_holds_the_outbox(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_ADMIN__TOKEN", "admin-token-0123456789abcdef")
    async with opened(path) as outbox:
        await fill(outbox)
        app = admin_app(
            exposition=lambda _: (b"", ""),
            checks={},
            status=dict,  # type: ignore[arg-type]
            access=Access(token="admin-token-0123456789abcdef", trusted_peers=False),
            hosts=None,
            replay=outbox.replay,
        )
        server = AdminServer(app, listen="127.0.0.1:0")
        await server.start()
        monkeypatch.setenv("SENTINEL_ADMIN__LISTEN", f"127.0.0.1:{server.port}")
        [done] = lines(await run(path, "replay", "--all", "--yes", "--json"))
        await server.aclose()
        gone = await run(path, "replay", "x", "--yes")
    assert done == {"asked": 2, "replayed": 2}
    assert gone.exit_code == 3


async def test_verify(filled: Path) -> None:
    [facts] = lines(await run(filled, "status", "--json"))
    whole = await run(filled, "verify", "--head", str(facts["head"]))
    assert whole.exit_code == 0, whole.output
    assert "Nothing is missing" in whole.stdout
    other = await run(filled, "verify", "--head", f"7:{'0' * 64}")
    assert other.exit_code == 1
    assert "rewritten" in other.stdout


@pytest.mark.parametrize(
    ("damage", "where", "fault"),
    [
        ("UPDATE records SET output_tokens = 0 WHERE seq = 3", "chain", "altered"),
        ("DELETE FROM records WHERE seq = 2", "chain", "missing"),
        ("DELETE FROM records WHERE seq >= 6", "chain", "missing"),
        ("DELETE FROM records", "chain", "missing"),
        ("UPDATE items SET output_tokens = 1 WHERE n = 1", "items", "wrong sums"),
        ("UPDATE items SET input_tokens = 0 WHERE n = 1", "items", "wrong sums"),
        ("DELETE FROM items WHERE n = 1", "items", "wrong sums"),
    ],
)
async def test_verify_finds(filled: Path, damage: str, where: str, fault: str) -> None:
    with sqlite3.connect(filled) as connection:
        connection.execute(damage)
    connection.close()
    done = await run(filled, "verify", "--json")
    [found] = lines(done)
    assert done.exit_code == 1
    findings = found["findings"]
    assert isinstance(findings, list)
    assert (where, fault) in {(one["where"], one["fault"]) for one in findings}


async def test_verify_against_zion(path: Path, tmp_path: Path) -> None:
    zion = ZionStandIn(api_key="zion-key", users=DEMO_USERS)
    with serve_app(zion.app, name="zion") as hosted:
        async with opened(path) as outbox:
            for number in range(6):
                await outbox.append(record(number, user=("ada", "bo")[number % 2]))
            client = ZionClient(base_url=hosted.url, api_key="zion-key")
            reporter = Reporter(outbox, client)
            await reporter.drain(30.0)
            await client.aclose()
        url = f"{hosted.url}/_standin/ledger.jsonl"
        [equal] = lines(await run(path, "verify", "--json", "--zion-ledger", url))
    assert (equal["ok"], equal["matched_at_zion"]) == (True, 2)
    file = tmp_path / "zion.jsonl"
    file.write_text('{"idempotencyKey": "foreign"}\n')
    missing = await run(path, "verify", "--zion-ledger", str(file))
    assert missing.exit_code == 1
    assert "missing at Zion" in missing.stdout
    file.write_text("nonsense\n")
    assert (await run(path, "verify", "--zion-ledger", str(file))).exit_code == 3
    assert (await run(path, "verify", "--zion-ledger", str(tmp_path / "none"))).exit_code == 3


@pytest.mark.parametrize("by_option", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["list"],
        ["export"],
        ["dead-letters"],
        ["verify"],
        ["replay", "--all", "--user", "ext-cy", "--yes"],
    ],
)
async def test_the_outbox_is_found_by_the_configuration(
    filled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    by_option: bool,
) -> None:
    monkeypatch.delenv("SENTINEL_USAGE__OUTBOX_PATH", raising=False)
    config = tmp_path / "sentinel.yaml"
    config.write_text(f"usage: {{outbox_path: {filled}}}\n")
    if by_option:
        monkeypatch.delenv("SENTINEL_CONFIG", raising=False)
        arguments = [*arguments, "--config", str(config)]
    else:
        monkeypatch.setenv("SENTINEL_CONFIG", str(config))
    done = await asyncio.to_thread(CliRunner().invoke, usage, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    # Something in it waits for a person, which two of them tell.
    telling = arguments[0] in ("status", "dead-letters")
    assert done.exit_code == (1 if telling else 0), done.output


@pytest.mark.parametrize("command", ["status", "list", "export", "dead-letters", "verify"])
async def test_no_outbox(tmp_path: Path, command: str) -> None:
    other = tmp_path / "other.db"
    sqlite3.connect(other).close()
    other.write_bytes(b"")
    text = tmp_path / "text"
    text.write_text("not a database, and long enough to look like one" * 100)
    for path in (tmp_path / "none", other, text):
        done = await run(path, command)
        assert done.exit_code == 3, (path, done.output)
        assert "can't be read" in done.stderr
        told = await run(path, command, "--json")
        assert told.exit_code == 3
        assert json.loads(told.stdout)["error"]["code"] == "unreadable"
        assert not (tmp_path / "none").exists()
    replayed = await run(tmp_path / "none", "replay", "x", "--yes", "--json")
    assert replayed.exit_code == 3
    assert json.loads(replayed.stdout)["error"]["code"] == "unreadable"


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--since", "tomorrow"],
        ["list", "--state", "lost"],
        ["verify", "--head", "7"],
        ["replay", "--yes"],
        ["replay", "x", "--all"],
        ["replay", "x", "--user", "a"],
        ["export", "--format", "xls"],
    ],
)
async def test_wrong_usage(filled: Path, arguments: list[str]) -> None:
    assert (await run(filled, *arguments)).exit_code == 2


def test_help_says_how_it_ends() -> None:
    for name in usage.commands:
        shown = CliRunner().invoke(usage, [name, "--help"])
        assert "Exit codes" in shown.output, name
