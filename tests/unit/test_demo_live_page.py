"""The demo's live page and the sample calls that keep it lively."""

from __future__ import annotations

import socket
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sentinel_extproc.cli import main
from sentinel_extproc.demo import live_page as module
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.live_page import free_port, live_page
from sentinel_extproc.demo.session import REQUEST_LIMIT
from sentinel_extproc.demo.traffic import EVERY_S, MOST, SAMPLE_USERS, SampleTraffic, call
from sentinel_extproc.demo.zion_standin import DEMO_USERS


def test_the_link_carries_a_token_of_this_run_where_it_is_not_sent() -> None:
    first, second = live_page(), live_page()
    parts = urlsplit(first.link)
    assert parts.hostname == "127.0.0.1"
    assert parts.query == ""
    assert parse_qs(parts.fragment) == {"token": [first.token]}
    assert len(first.token) >= 32
    assert first.token != second.token
    assert first.settings["SENTINEL_ADMIN__LISTEN"] == f"127.0.0.1:{first.port}"


def test_a_port_that_is_taken_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) is None
        monkeypatch.setattr(module, "PREFERRED_PORT", port)
        assert live_page().port not in (0, port)


def test_sample_calls_are_various_and_leave_the_scenarios_users_alone() -> None:
    calls = [call(number) for number in range(MOST)]
    known = {user.token for user in SAMPLE_USERS}
    callers = Counter(one.token for one in calls)
    assert known < set(callers)
    (stranger,) = set(callers) - known
    assert 0 < callers[stranger] < MOST / 10
    assert not known & {user.token for user in DEMO_USERS}
    assert not {u.external_id for u in SAMPLE_USERS} & {u.external_id for u in DEMO_USERS}
    assert {one.path for one in calls} == {"/v1/chat/completions", "/v1/embeddings"}
    assert {one.body.get("stream") for one in calls} == {None, True, False}
    assert len({one.body["model"] for one in calls}) > 3
    # One of them runs into the limit, the others don't.
    in_a_minute = Counter(one.token for one in calls[: int(60 / EVERY_S)])
    assert [user for user, n in in_a_minute.items() if n > REQUEST_LIMIT] == ["sample-cleo"]


def test_sample_calls_end_by_themselves_and_when_told() -> None:
    seen: list[str] = []

    async def answer(request: Request) -> Response:
        seen.append(request.headers["authorization"])
        return JSONResponse({}, status_code=503 if len(seen) == 2 else 200)

    app = Starlette(routes=[Route("/v1/{rest:path}", answer, methods=["POST"])])
    with serve_app(app, name="gateway") as gateway:
        with SampleTraffic(gateway.url, every_s=0, most=3) as traffic:
            traffic._thread.join(30)
        assert traffic.answered == len(seen) == 3
        with SampleTraffic(gateway.url, every_s=3600) as traffic:
            pass
        assert not traffic._thread.is_alive()
        assert traffic.answered <= 1
    # Nobody is there any more.
    with SampleTraffic(gateway.url, every_s=0, most=2) as traffic:
        traffic._thread.join(30)
    assert traffic.answered == 0


@pytest.mark.parametrize("more", [["--once"], ["--once", "--json"]])
def test_sample_traffic_is_for_staying_up(more: list[str]) -> None:
    refused = CliRunner().invoke(main, ["demo", "--traffic", *more])
    assert refused.exit_code == 2
    assert "--traffic is for when it stays up" in refused.output
