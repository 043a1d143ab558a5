"""Counts of what enforcing would have done, from facts to the report."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from sentinel_extproc.cli import main
from sentinel_extproc.shadow.recorder import ShadowRecorder
from sentinel_extproc.shadow.report import as_text, report
from sentinel_extproc.shadow.store import ShadowStore
from sentinel_extproc.shadow.tally import OTHERS, UNKNOWN, Count, Key, Tally
from sentinel_extproc.telemetry.facts import ExchangeFinished, ExchangeNoted
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord


def noted(user: str | None, code: str = "rate_limit_exceeded", **more: object) -> ExchangeNoted:
    given = {"limit": "requests", "status": 429, "at_ms": 1_000} | more
    return ExchangeNoted(
        exchange_id="x",
        endpoint="chat.completions",
        user=user,
        code=code,
        **given,  # type: ignore[arg-type]
    )


def finished(user: str, at_ms: int = 1_000) -> ExchangeFinished:
    record = UsageRecord(
        id="x",
        occurred_at_ms=at_ms,
        external_id=user,
        email="",
        endpoint="chat.completions",
        model_requested="m",
        model_served=None,
        requests=1,
        usage=TokenUsage(),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )
    return ExchangeFinished(record, 0)


def test_counts_are_by_user_reason_and_limit_with_first_and_last() -> None:
    tally = Tally(max_rows=100)
    tally.take(noted("ada", at_ms=5_000))
    tally.take(noted("ada", at_ms=2_000))
    tally.take(noted(None, "invalid_api_key", limit=None, status=401))
    tally.take(finished("ada"))
    assert tally.drain() == {
        Key("ada", "rate_limit_exceeded", "requests", 429): Count(2, 2_000, 5_000),
        Key(UNKNOWN, "invalid_api_key", "", 401): Count(1, 1_000, 1_000),
        Key("ada"): Count(1, 1_000, 1_000),
    }
    assert tally.drain() == {}


def test_what_is_told_apart_is_bounded_and_nothing_is_lost() -> None:
    tally = Tally(max_rows=3)
    for number in range(50):
        tally.take(finished(f"user-{number}"))
    counts = tally.drain()
    assert len(counts) == 4
    assert counts[Key(OTHERS)].requests == 47
    assert sum(count.requests for count in counts.values()) == 50


def test_the_report_names_who_how_often_and_which_share() -> None:
    tally = Tally(max_rows=100)
    for _ in range(3):
        tally.take(finished("ada"))
    tally.take(noted("ada"))
    tally.take(noted("bob", "answer", cut=True))
    tally.take(finished("bob"))
    told = report(tally.drain())
    assert (told["requests"], told["would_be_refused"], told["share"]) == (5, 1, 0.2)
    assert (told["users"], told["users_refused"]) == (2, 1)
    ada, bob = told["rows"]
    assert (ada["user"], ada["limit"], ada["share_of_users_requests"]) == ("ada", "requests", 0.25)
    assert bob["reason"] == "answer_cut"
    text = as_text(told)
    assert "1 (20.0 %) of 1 users would have been refused." in text
    assert "1970-01-01T00:00:01Z" in text


def test_a_name_from_outside_moves_no_cursor() -> None:
    told = report({Key("a\x1b[2Jb", "r", "", 401): Count(1, 0, 0)})
    assert "\x1b" not in as_text(told)


async def test_counts_add_up_over_restarts_and_are_read_while_in_use(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "shadow.db"
    for at_ms in (3_000, 1_000):
        tally = Tally(max_rows=100)
        recorder = ShadowRecorder(tally, ShadowStore(path))
        await recorder.start()
        tally.take(noted("ada", at_ms=at_ms))
        await recorder.aclose()
    key = Key("ada", "rate_limit_exceeded", "requests", 429)
    assert ShadowStore(path).read() == {key: Count(2, 1_000, 3_000)}
    known = Tally(max_rows=1)
    known.know(ShadowStore(path).create())
    known.take(noted("ada"))
    known.take(noted("bob"))
    assert {one.user for one in known.drain()} == {"ada", OTHERS}


async def test_what_cant_be_stored_is_kept_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "shadow.db"
    tally = Tally(max_rows=100)
    recorder = ShadowRecorder(tally, ShadowStore(path))
    await recorder.start()
    path.unlink()
    tally.take(noted("ada"))
    await recorder.aclose()
    assert len(tally.drain()) == 1


def test_the_command_prints_text_and_json(tmp_path: Path) -> None:
    store = ShadowStore(tmp_path / "s.db")
    store.create()
    arguments = ["shadow", "report", "--file", str(tmp_path / "s.db")]
    assert CliRunner().invoke(main, arguments).output == "Nothing was seen yet.\n"
    store.add({Key("ada", "invalid_api_key", "", 401): Count(2, 0, 9_000)})
    assert "invalid_api_key" in CliRunner().invoke(main, arguments).output
    told = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert told["rows"][0]["requests"] == 2
    file = tmp_path / "sentinel.yaml"
    file.write_text(f"shadow: {{report_path: {tmp_path / 's.db'}}}\n")
    here = CliRunner().invoke(main, arguments[:2], env={"SENTINEL_CONFIG": str(file)})
    assert "invalid_api_key" in here.output, "the configuration says where"
    here = CliRunner().invoke(main, [*arguments[:2], "--config", str(file)])
    assert "invalid_api_key" in here.output
    missing = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "none.db")])
    assert missing.exit_code == 1
    missing = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "none.db"), "--json"])
    assert missing.exit_code == 1
    assert json.loads(missing.stdout)["error"]["code"] == "unreadable"
