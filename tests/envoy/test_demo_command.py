"""The demo as a person runs it: one command, and nothing left behind, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.openai_standin import OpenAIStandIn
from sentinel_extproc.demo.session import REQUEST_LIMIT
from sentinel_extproc.demo.zion_standin import DEMO_USERS, ZionStandIn

Start = Callable[..., subprocess.Popen[bytes]]
DEADLINE_S = 90


@pytest.fixture
def tmp_root(work_dir: Path) -> Path:
    """Where the demo makes its own folder."""
    root = work_dir / "t"
    root.mkdir()
    return root


@pytest.fixture
def shown(work_dir: Path) -> Path:
    return work_dir / "shown.txt"


@pytest.fixture
def start(tmp_root: Path, shown: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def run(
        *arguments: str, stdout: int | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        outside = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SENTINEL_", "OPENAI_", "ZION_"))
        }
        with shown.open("wb") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "sentinel_extproc", "demo", *arguments],
                stdout=out if stdout is None else stdout,
                stderr=out,
                env=outside | {"TMPDIR": str(tmp_root), "COLUMNS": "200"} | environment,
            )
        started.append(child)
        return child

    yield run
    for child in started:
        child.kill()
        child.wait()


def wait_for(shown: Path, child: subprocess.Popen[bytes], pattern: str) -> re.Match[str]:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := re.search(pattern, shown.read_text())):
        assert child.poll() is None, shown.read_text()
        assert time.monotonic() < deadline, shown.read_text()
        time.sleep(0.05)
    return found


def children(pid: int) -> list[int]:
    """Process ids whose parent is ``pid``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while not all(map(is_gone, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if not is_gone(pid)]
        time.sleep(0.05)


def test_once_plays_every_step_and_cleans_up(start: Start, shown: Path, tmp_root: Path) -> None:
    child = start("--once")
    assert child.wait(DEADLINE_S) == 0, shown.read_text()
    text = shown.read_text()
    assert len(re.findall(r"^✓ ", text, re.MULTILINE)) == 12
    assert "✗" not in text
    assert "10 admitted, then openai.RateLimitError" in text
    assert "ext-bo" in text
    assert text.splitlines()[-1] == "everything has been stopped"
    assert list(tmp_root.iterdir()) == []


def test_a_reader_that_goes_away_ends_it_clean(start: Start, tmp_root: Path, shown: Path) -> None:
    child = start("--once", stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert "redis-server" in child.stdout.readline().decode()
    parts = children(child.pid)
    child.stdout.close()
    assert child.wait(DEADLINE_S) == 141
    assert shown.read_text() == ""
    assert parts
    assert_gone(parts)
    assert list(tmp_root.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stays_up_and_ends_clean(
    start: Start, shown: Path, tmp_root: Path, number: signal.Signals
) -> None:
    child = start("--port", "0")
    url = wait_for(shown, child, r"curl -i (\S+)/v1/chat/completions")[1]
    fresh = wait_for(shown, child, r"tokens to use +([\w-]+),.*; demo-bo is at its limit")[1]
    logs = wait_for(shown, child, r"logs +(\S+), until it ends")[1]
    assert (Path(logs) / "sidecar.log").exists()
    # As many as the limit allows: nobody has used any of it.
    for _ in range(REQUEST_LIMIT):
        answer = httpx.post(
            f"{url}/v1/chat/completions",
            headers={"authorization": f"Bearer {fresh}"},
            json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]},
            trust_env=False,
        )
        assert answer.status_code == 200
    parts = children(child.pid)
    assert len(parts) == 3
    child.send_signal(number)
    assert child.wait(DEADLINE_S) == 0, shown.read_text()
    assert shown.read_text().splitlines()[-1] == "everything has been stopped"
    assert_gone(parts)
    assert list(tmp_root.iterdir()) == []


def test_the_printed_link_leads_to_a_page_with_something_on_it(start: Start, shown: Path) -> None:
    child = start("--port", "0", "--traffic")
    link = wait_for(shown, child, r"the live page +(http://127\.0\.0\.1:\d+)/#token=(\S+)")
    origin, token = link[1], link[2]
    with httpx.Client(base_url=origin, trust_env=False, timeout=30) as client:
        # The token is behind the #: the page gets it, the sidecar doesn't.
        assert client.get("/").headers["location"] == "/login"
        form = client.get("/login").text
        assert 'action="/login"' in form
        assert client.get("/live/data").status_code == 401
        foreign = client.post("/login", data={"token": token}, headers={"origin": "http://x"})
        assert foreign.status_code == 403
        client.post("/login", data={"token": token}, headers={"origin": origin})
        assert client.get("/").status_code == 200
        deadline = time.monotonic() + DEADLINE_S
        while "ext-cleo" not in (data := client.get("/live/data").text):
            assert time.monotonic() < deadline, data
            time.sleep(0.2)
    # What the scenario did stands there as well.
    assert "ext-ada" in data
    assert "ext-bo" in data
    assert "rate_limit_exceeded" in data
    child.send_signal(signal.SIGTERM)
    assert child.wait(DEADLINE_S) == 0, shown.read_text()
    assert shown.read_text().splitlines()[-1] == "everything has been stopped"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_can_be_ended_while_it_starts(
    start: Start, shown: Path, tmp_root: Path, number: signal.Signals, code: int
) -> None:
    child = start()
    wait_for(shown, child, "✓ stand-in OpenAI")
    parts = children(child.pid)
    child.send_signal(number)
    assert child.wait(DEADLINE_S) == code, shown.read_text()
    assert "everything has been stopped" in shown.read_text()
    assert parts
    assert_gone(parts)
    assert list(tmp_root.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_outlives_a_demo_that_is_killed(start: Start, shown: Path) -> None:
    child = start("--port", "0")
    wait_for(shown, child, "curl -i")
    parts = children(child.pid)
    child.kill()
    child.wait()
    assert len(parts) == 3
    assert_gone(parts)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_part_that_dies_is_told(start: Start, shown: Path, tmp_root: Path) -> None:
    child = start("--port", "0")
    wait_for(shown, child, "curl -i")
    (sidecar,) = (
        pid
        for pid in children(child.pid)
        if b"sentinel_extproc" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(sidecar, signal.SIGKILL)
    assert child.wait(DEADLINE_S) == 1
    assert "sidecar ended with code -9; its log ends:" in shown.read_text()
    kept = re.search(r"the logs are kept in (\S+)", shown.read_text())
    assert kept is not None
    assert "serving" in (Path(kept[1]) / "sidecar.log").read_text()


def test_services_of_ones_own_are_used_and_billed(start: Start, shown: Path) -> None:
    provider = OpenAIStandIn(provider_key="sk-own")
    zion = ZionStandIn(api_key="own-zion-key", users=DEMO_USERS)
    with (
        serve_app(provider.app, name="provider") as provider_app,
        serve_app(zion.app, name="zion") as zion_app,
    ):
        child = start(
            "--once",
            OPENAI_API_KEY="sk-own",
            OPENAI_API_URL=provider_app.url + "/v1",
            ZION_API_URL=zion_app.url,
            ZION_API_KEY="own-zion-key",
            SENTINEL_DEMO_TOKEN="demo-ada",
        )
        assert child.wait(DEADLINE_S) == 0, shown.read_text()
    text = shown.read_text()
    assert "using the real services" in text
    assert "stand-in OpenAI" not in text
    assert sum(entry.requests for entry in zion.ledger()) == len(provider.served()) == 10
    assert "sk-own" not in text
    assert "demo-ada" not in text


def test_a_part_that_cannot_start_is_told_with_its_log(start: Start, shown: Path) -> None:
    child = start(
        "--once",
        OPENAI_API_KEY="sk-x",
        ZION_API_URL="http://127.0.0.1:9",
        ZION_API_KEY="z",
        SENTINEL_DEMO_TOKEN="t",
        SENTINEL_LIMITS__PERIOD_SECONDS="60",
        SENTINEL_LOGS__LEVEL="loud",
    )
    assert child.wait(DEADLINE_S) == 1
    text = shown.read_text()
    assert "sidecar ended with code 2 before it served; the end of its log:" in text
    assert "logs.level" in text
    assert "sk-x" not in text
