"""A real headless Chromium, and an admin port whose page shows a made-up, busy sidecar.

Chromium comes from the system (`make browser` installs it where apt can); nothing is downloaded
from elsewhere. Without it these tests are skipped, and say so.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

from sentinel_extproc.admin.control import Effect, Target, Token
from sentinel_extproc.admin.guard import Access, HostRule
from sentinel_extproc.admin.looking import Question
from sentinel_extproc.admin.page.sources import OwnSources
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.admin.server import AdminServer
from sentinel_extproc.errors import Forbidden, Unavailable
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.telemetry.facts import ExchangeRefused
from sentinel_extproc.telemetry.live import SAMPLES, STEP_S, Live
from tests.fleet_fakes import finished

TOKEN = "admin-token-0123456789abcdef"
HOSTILE = "<img src=x onerror=alert(1)>\u202e'\"&</td></script><script>alert(2)</script>"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def chromium() -> str | None:
    """Where the browser is, if anywhere."""
    named = os.environ.get("SENTINEL_TEST_CHROMIUM")
    # Debian's `chromium` is a shell script around this.
    direct = "/usr/lib/chromium/chromium"
    found = named or (direct if Path(direct).exists() else None)
    return found or next((path for one in NAMES if (path := shutil.which(one))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium here: `make browser` installs it with apt")
    with sync_playwright() as playwright:
        try:
            made = playwright.chromium.launch(executable_path=path, headless=True)
        except Error as error:
            pytest.skip(f"{path} does not start: {str(error).splitlines()[0]}")
        yield made
        made.close()


def worker(number: int, *, failing: bool = False) -> dict[str, Any]:
    return {
        "worker": number,
        "pid": None if failing else 4711 + number,
        "state": "down" if failing else "serving",
        "failing": failing,
        "failures": 6 if failing else 0,
        "answers": not failing,
        "live": None if failing else 2,
    }


@dataclass
class Sidecar:
    """What the page looks at, made up; and what it was told to do."""

    now: float = 50_000.0
    live: Live = field(init=False)
    redis: str = "up"
    failing: bool = False
    fault: str = ""
    calls: list[tuple[str, Target, bool]] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.live = Live(lambda: self.now)
        dice = random.Random(3)
        people = ["ada", "grace", "linus", "barbara", HOSTILE]
        models = ["gpt-4o", "gpt-4o-mini", "gpt-5", "claude-sonnet-4"]
        busy = 6.0
        for _ in range(SAMPLES):
            busy = min(14.0, max(1.0, busy + dice.uniform(-1.5, 1.6)))
            for _ in range(int(busy)):
                who = dice.choices(people, (9, 5, 3, 2, 1))[0]
                what = dice.choices(models, (5, 9, 3, 1))[0]
                given, made = dice.randrange(50, 2500), dice.randrange(10, 900)
                self.live.emit(finished(who, what, given, made))
            for _ in range(int(busy / 6 + dice.random())):
                code = dice.choice(["rate_limit_exceeded"] * 3 + ["invalid_api_key", HOSTILE])
                self.live.emit(ExchangeRefused("0190", 429, code, None, None))
            self.now += STEP_S
        self.live.emit(finished("ada", HOSTILE, 90_000, 10))

    def running(self, most: int) -> list[Running]:
        now_ms = int(time.time() * 1000)
        return [
            Running(
                f"0199c0de-7000-7000-8000-00000000000{place}",
                now_ms - age * 1000,
                user,
                "chat.completions",
                model,
                admitted,
                chars,
            )
            for place, (user, model, age, admitted, chars) in enumerate(
                [
                    ("grace", "gpt-5", 312, True, 48_211),
                    (HOSTILE, HOSTILE, 31, True, 2_204),
                    ("ada", "gpt-4o", 4, True, 380),
                    (None, None, 0, False, 0),
                ]
            )
        ][:most]

    async def status(self) -> Mapping[str, Any]:
        if self.fault:
            raise Unavailable(self.fault)
        return {
            "exchanges": {"live": 4, "draining": False},
            "limits": {"store": self.redis, "replicas": 3, "pending_settlements": 0},
            "zion": {
                "lookup_breaker": "closed",
                "report_breaker": "half_open",
                "own_key": "not refused",
            },
            "outbox": {
                "fill": 0.031,
                "degraded": False,
                "fault": None,
                "undelivered": 214,
                "dead_items": 0,
                "oldest_seconds": 9,
            },
            "stream": {"away": False, "entries": 96, "pending": 12, "oldest_seconds": 4},
            "ledger": {"unknown": 0},
            "workers": [worker(0), worker(1, failing=self.failing)],
            "restarts": {"died": 6 if self.failing else 0},
        }

    async def whoami(self, token: Token) -> dict[str, Any]:
        raise NotImplementedError

    async def limits(self, question: Question) -> dict[str, Any]:
        self.asked.append(question)
        if question.user == "nobody":
            raise Forbidden("The account is not known.")
        told = (
            ("requests", "requests", 600, 431, 41.2, False),
            ("tokens-per-day", "total_tokens", 2_000_000, 120_400, 40_000.0, False),
            ("budget", "cost", 25.0, 0.0, None, False),
            ("trial", "requests", 10, 10, 0.0, True),
        )
        fields = ("name", "unit", "limit", "remaining", "reset_seconds", "shadow")
        limits = [dict(zip(fields, one, strict=True)) | {"at_once": False} for one in told]
        return {"limits": limits}

    async def revoke(self, target: Target, *, streams: bool) -> Effect:
        self.calls.append(("revoke", target, streams))
        return Effect(everywhere=True, replicas=3, streams=2 if streams else 0)

    async def invalidate(self, target: Target) -> Effect:
        self.calls.append(("invalidate", target, False))
        return Effect(everywhere=True, replicas=3)

    def sources(self) -> OwnSources:
        return OwnSources(
            live=self.live,
            running=self.running,
            in_all=lambda: 4,
            status=self.status,
            look_ups=self,
            control=self,
        )


@dataclass
class Port:
    url: str
    sidecar: Sidecar


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    """The admin port, served by the real server in a thread of its own."""
    sidecar = Sidecar()
    app = admin_app(
        exposition=lambda _: (b"", "text/plain"),
        checks={},
        status=sidecar.status,
        access=Access(token=TOKEN, trusted_peers=False),
        hosts=HostRule(),
        control=sidecar,
        page=sidecar.sources(),
    )
    with served(app) as number:
        yield Port(f"http://127.0.0.1:{number}", sidecar)


class served:  # noqa: N801 - used like a function
    """Serves an application in a thread as long as the ``with`` lasts; gives its port."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> int:
        self._thread.start()
        self._server: AdminServer = self._run(self._start)
        number: int = self._server.port
        return number

    def __exit__(self, *_: object) -> None:
        self._run(self._server.aclose)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> AdminServer:
        server = AdminServer(self._app, listen="127.0.0.1:0")
        await server.start()
        return server

    def _run(self, work: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(20)
