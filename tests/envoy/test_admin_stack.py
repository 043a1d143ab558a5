"""The admin port of a sidecar behind a real Envoy: health, and metrics that move with the calls."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from sentinel_extproc.demo.stack import Stack

StartStack = Callable[..., Stack]

ADA = "demo-ada"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def eventually(check: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def admin_socket(stack: Stack) -> Path:
    return Path(stack.sidecar.address.removeprefix("unix:")).with_name("admin.sock")


def admin(stack: Stack, method: str, path: str, body: object = None) -> httpx.Response:
    transport = httpx.HTTPTransport(uds=str(admin_socket(stack)))
    with httpx.Client(transport=transport, base_url="http://admin", timeout=10) as client:
        return client.request(method, path, json=body)


def chat(stack: Stack, *, token: str = ADA) -> httpx.Response:
    return httpx.post(
        f"{stack.url}/v1/chat/completions",
        json=CHAT,
        headers={"authorization": f"Bearer {token}"},
        trust_env=False,
        timeout=30,
    )


def metrics(stack: Stack) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = admin(stack, "GET", "/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(stack: Stack, name: str, /, **labels: str) -> float:
    """The sum over all series with these labels."""
    wanted = set(labels.items())
    return sum(
        number
        for (sample, found), number in metrics(stack).items()
        if sample == name and wanted <= found
    )


def test_health(stack: Stack) -> None:
    eventually(lambda: admin_socket(stack).exists())
    assert admin(stack, "GET", "/healthz").json() == {"status": "ok"}
    ready = admin(stack, "GET", "/readyz")
    assert (ready.status_code, ready.json()["checked"]) == (200, ["serving", "outbox"])


def test_the_counters_move_with_the_calls(stack: Stack) -> None:
    eventually(lambda: admin_socket(stack).exists())
    before = value(stack, "sentinel_exchanges_total", decision="admitted")
    refused = value(stack, "sentinel_exchanges_total", decision="refused", code="invalid_api_key")
    tokens = value(stack, "sentinel_tokens_total", kind="input", model="gpt-4o-mini")
    for _ in range(3):
        answer = chat(stack)
        assert answer.status_code == 200
    prompt = answer.json()["usage"]["prompt_tokens"]
    assert chat(stack, token="nobody").status_code == 401

    # The last answer's accounting may end a moment after the client has it.
    eventually(lambda: value(stack, "sentinel_exchanges_total", decision="admitted") == before + 3)
    assert (
        value(stack, "sentinel_exchanges_total", decision="refused", code="invalid_api_key")
        == refused + 1
    )
    assert (
        value(stack, "sentinel_tokens_total", kind="input", model="gpt-4o-mini")
        == tokens + 3 * prompt
    )
    assert value(stack, "sentinel_limit_decisions_total", outcome="admitted", rung="normal") >= 3
    assert value(stack, "sentinel_outbox_records_total", result="appended") >= 3
    assert value(stack, "sentinel_identity_answers_total") >= 4
    assert value(stack, "sentinel_limit_store_down") == 0
    assert value(stack, "sentinel_event_loop_lag_seconds_count") > 0
    assert value(stack, "sentinel_reading_faults_total") == 0
    assert value(stack, "sentinel_telemetry_faults_total") == 0
    # All that was appended is delivered in the end, and then nothing waits.
    eventually(
        lambda: (
            value(stack, "sentinel_report_items_total", result="acknowledged") > 0
            and value(stack, "sentinel_outbox_items") == 0
            and value(stack, "sentinel_outbox_unsealed_records") == 0
        )
    )


def test_revoking_asks_the_user_service_at_the_next_request(stack: Stack) -> None:
    eventually(lambda: admin_socket(stack).exists())
    assert chat(stack).status_code == 200
    calls = value(stack, "sentinel_identity_source_calls_total", result="called")
    assert chat(stack).status_code == 200
    assert value(stack, "sentinel_identity_source_calls_total", result="called") == calls
    # Ada's external id is the user service's, so it is taken from what it was billed.
    assert stack.zion is not None
    eventually(lambda: stack.zion is not None and bool(stack.zion.ledger()))
    user = stack.zion.ledger()[0].external_id
    answer = admin(stack, "POST", "/v1/revoke", {"user": user})
    assert (answer.status_code, answer.json()["everywhere"]) == (200, True)
    assert chat(stack).status_code == 200
    assert value(stack, "sentinel_identity_source_calls_total", result="called") > calls


def test_its_log_says_what_was_found_at_the_start(stack: Stack) -> None:
    log = admin_socket(stack).with_name("sidecar.log")
    eventually(lambda: '"event": "serving"' in log.read_text())
    text = log.read_text()
    line = next(json.loads(one) for one in text.splitlines() if '"event": "serving"' in one)
    assert line["level"] == "info"
    assert (line["mode"], line["workers"], line["providers"]) == ("enforce", 1, ["default"])
    assert (line["redis"]["reached"], line["redis"]["topology"]) == (True, "standalone")
    assert line["redis"]["version"].startswith(("Redis ", "Valkey "))
    assert line["zion"]["reached"] is True
    assert line["outbox"]["path"].endswith("/outbox.db")
    assert line["admin"] == f"unix:{admin_socket(stack)}"
    assert line["not_ready"] == {}


def test_the_command_line_reaches_it(stack: Stack) -> None:
    eventually(lambda: admin_socket(stack).exists())
    done = subprocess.run(
        [sys.executable, "-m", "sentinel_extproc", "status", "--json"],
        env={"SENTINEL_ADMIN__LISTEN": f"unix:{admin_socket(stack)}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["exchanges"]["draining"] is False
    assert status["limits"]["store"] == "up"
    assert chat(stack).status_code == 200
    eventually(lambda: any(admin(stack, "GET", "/v1/status").json()["top"]["users"].values()))


def test_while_it_drains_it_lives_but_is_not_ready(run_stack: StartStack) -> None:
    stack = run_stack(chunk_delay_s=0.2)
    eventually(lambda: admin_socket(stack).exists())
    with httpx.stream(
        "POST",
        f"{stack.url}/v1/chat/completions",
        json=CHAT | {"stream": True},
        headers={"authorization": f"Bearer {ADA}"},
        trust_env=False,
        timeout=30,
    ) as answer:
        assert answer.status_code == 200
        chunks = answer.iter_raw()  # kept: without it the connection is closed
        assert next(chunks)
        assert value(stack, "sentinel_exchanges_live") == 1
        os.kill(stack.sidecar.process.pid, signal.SIGTERM)
        eventually(lambda: admin(stack, "GET", "/readyz").status_code == 503)
        assert admin(stack, "GET", "/readyz").json()["not_ready"] == {"serving": "draining"}
        assert admin(stack, "GET", "/healthz").status_code == 200
        assert value(stack, "sentinel_draining") == 1
    eventually(lambda: not admin_socket(stack).exists())


def test_the_live_page_shows_the_calls_and_looking_at_limits_takes_nothing(stack: Stack) -> None:
    eventually(lambda: admin_socket(stack).exists())
    transport = httpx.HTTPTransport(uds=str(admin_socket(stack)))
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=10) as client:
        # Who may open the socket needs no token; the page begins a session for its forms.
        page = client.get("/")
        assert page.status_code == 200
        assert "Top users" in page.text

        def users() -> dict[str, int]:
            rows = client.get("/live/data").json()["tables"]["users"]
            return {row[0]["user"]: int(row[2]["text"].strip("≥ ")) for row in rows}

        before = users()
        assert chat(stack).status_code == 200
        eventually(lambda: sum(users().values()) == sum(before.values()) + 1)
        user = next(name for name, count in users().items() if count != before.get(name))
        eventually(lambda: value(stack, "sentinel_limit_settlements_pending") == 0)

        def left() -> list[int]:
            answer = client.get("/", params={"user": user, "model": "gpt-4o-mini"}).text
            table = answer.partition('id="rows-limits"')[2].partition("</tbody>")[0]
            return [int(one.replace(",", "")) for one in re.findall(r"</meter>([\d,]+)<", table)]

        looks = [left() for _ in range(5)]
        assert looks[0]
        # More may be left as time passes; less never.
        for one, next_ in itertools.pairwise(looks):
            assert all(before <= after for before, after in zip(one, next_, strict=True))
        assert client.get("/", params={"user": "nobody-at-all"}).status_code == 200


def command(stack: Stack, *arguments: str, stdin: str = "") -> dict[str, object]:
    """What one of our commands says as JSON; it must do well."""
    done = subprocess.run(
        [sys.executable, "-m", "sentinel_extproc", *arguments, "--json"],
        input=stdin,
        env={k: v for k, v in os.environ.items() if not k.startswith("SENTINEL_")}
        | {"SENTINEL_ADMIN__LISTEN": f"unix:{admin_socket(stack)}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_a_user_and_a_token_are_looked_up_without_taking_anything(stack: Stack) -> None:
    eventually(lambda: admin_socket(stack).exists())
    assert chat(stack).status_code == 200
    who = command(stack, "whoami", "-", stdin=ADA)
    assert who["remembered"] == "process"
    assert who["revoked"] is False
    principal = who["principal"]
    assert isinstance(principal, dict)
    shown = [command(stack, "limits", "show", principal["external_id"])["limits"] for _ in range(3)]
    by_name = [{one["name"]: one for one in each} for each in shown if isinstance(each, list)]
    assert len(by_name) == 3
    assert by_name[0]["requests"]["limit"] == 100_000
    # What a look would take, three looks would have taken.
    assert by_name[2]["requests"]["remaining"] >= by_name[0]["requests"]["remaining"]
    assert by_name[0]["requests"]["remaining"] < 100_000
    assert len(by_name[0]) > 1  # Zion's quotas
