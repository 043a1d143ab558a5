"""Nobody controls, or sees, anything of the admin port without its token, on any route."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, cast

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from sentinel_extproc.admin.control import Effect, Target
from sentinel_extproc.admin.guard import Access, Guard, HostRule
from sentinel_extproc.admin.looking import LookUps
from sentinel_extproc.admin.page.sources import OwnSources
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.errors import Forbidden, Unauthenticated
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.static_keys import StaticKeys, digest
from sentinel_extproc.telemetry.live import Live

TOKEN = "admin-token-0123456789abcdef"
OPEN = {"/healthz", "/readyz", "/metrics", "/static/{file}", "/login"}
"""For probes, Prometheus and the form that asks for the token."""

REFUSED = {401, 403}
TO_LOGIN = 303


class Touched:
    """Everything behind the port: to be reached is a failure."""

    calls: list[str]

    def __init__(self) -> None:
        self.calls = []

    def __getattr__(self, name: str) -> Any:
        async def told(*args: object, **kwargs: object) -> Any:
            self.calls.append(name)
            return {}

        return told

    async def revoke(self, target: Target, *, streams: bool) -> Effect:
        self.calls.append("revoke")
        return Effect(everywhere=True)

    async def invalidate(self, target: Target) -> Effect:
        self.calls.append("invalidate")
        return Effect(everywhere=True)


def port(touched: Touched, token: str | None) -> tuple[Guard, list[Route]]:
    async def status() -> Mapping[str, Any]:
        touched.calls.append("status")
        return {}

    def running(most: int) -> list[Running]:
        touched.calls.append("running")
        return []

    look_ups = cast("LookUps", touched)
    app = admin_app(
        exposition=lambda _: (b"", "text/plain"),
        checks={},
        status=status,
        access=Access(token=token, trusted_peers=False),
        hosts=HostRule(),
        control=touched,
        replay=cast("Any", touched.replay),
        look_ups=look_ups,
        page=OwnSources(
            live=Live(lambda: 1.0),
            running=running,
            in_all=lambda: 0,
            status=status,
            look_ups=look_ups,
            control=touched,
        ),
    )
    assert isinstance(app, Guard)
    inner = app._app
    assert isinstance(inner, Starlette)
    return app, [route for route in inner.routes if isinstance(route, Route)]


CREDENTIALS: list[dict[str, str]] = [
    {},
    {"authorization": "Bearer"},
    {"authorization": f"Bearer {TOKEN}x"},
    {"authorization": f"Bearer {TOKEN[:-1]}"},
    {"authorization": f"Basic {TOKEN}"},
    {"cookie": f"session={TOKEN}; sentinel_session={TOKEN}; token={TOKEN}"},
    {"x-api-key": TOKEN},
    {"x-admin-token": TOKEN},
    {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"},
    {"x-http-method-override": "GET", "x-original-url": "/healthz"},
]


@pytest.mark.parametrize("token", [TOKEN, None], ids=["a token", "no token configured"])
async def test_every_route_wants_the_token(token: str | None) -> None:
    touched = Touched()
    app, routes = port(touched, token)
    governed = [route for route in routes if route.path not in OPEN]
    assert len(governed) >= 9, "the routes are those of the port"
    transport = httpx.ASGITransport(app=cast("Any", app))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for route in governed:
            for method in route.methods or ():
                for given in CREDENTIALS:
                    for kind in ("application/json", "application/x-www-form-urlencoded"):
                        answer = await client.request(
                            method,
                            route.path + f"?token={TOKEN}",
                            content=b'{"user":"ada","token":"t","path":"/v1/x"}',
                            headers={"content-type": kind, **given},
                        )
                        shown = (method, route.path, given)
                        assert answer.status_code in {*REFUSED, TO_LOGIN}, shown
                        if answer.status_code == TO_LOGIN:
                            assert answer.headers["location"].startswith("/login"), shown
    assert touched.calls == []


def test_the_admin_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the standard library's comparison, of digests: they have one length for every token."""
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def watching(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr("sentinel_extproc.admin.guard.hmac.compare_digest", watching)
    access = Access(token=TOKEN, trusted_peers=False)
    for given in (b"", b"a", TOKEN[:-1].encode(), b"x" * 5000):
        with pytest.raises((Unauthenticated, Forbidden)):
            access.check([b"Bearer " + given])
    access.check([b"Bearer " + TOKEN.encode()])
    assert len(compared) == 5
    assert {len(side) for pair in compared for side in pair} == {32}


class Watched(dict[str, Principal]):
    """Tells what it was asked for."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.append(key)
        return super().get(key, default)


async def test_static_keys_are_looked_up_by_their_digest_alone() -> None:
    """How long a look-up takes tells of a digest that nobody can choose, and not of a key."""
    keys = StaticKeys({digest("sk-good"): Principal("ext", "u", "")})
    keys._principals = watched = Watched(keys._principals)
    assert (await keys.identify("sk-good")).external_id == "ext"
    with pytest.raises(Unauthenticated):
        await keys.identify("sk-goof")
    assert watched.asked == [digest("sk-good"), digest("sk-goof")]
