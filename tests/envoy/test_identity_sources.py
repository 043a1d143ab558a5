"""Identity sources beside Zion, through the real Envoy and its own jwt_authn filter."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sentinel_extproc.demo.envoy import start_envoy
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.stack import Stack, provider_address
from sentinel_extproc.demo.zion_state import ZionUser
from sentinel_extproc.envoyconf.api import bootstrap, core, hcm, jwt_authn, protobuf, route
from sentinel_extproc.envoyconf.names import JWT_NAMESPACE
from sentinel_extproc.envoyconf.static import static_bootstrap
from sentinel_extproc.identity.static_keys import digest

StartEnvoy = Callable[[bootstrap.Bootstrap], str]
StartStack = Callable[..., Stack]

ISSUER, AUDIENCE = "https://issuer.example", "sentinel"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
USERS = [ZionUser("not-used", "u-jwt", "ext-jwt", "jwt@example.com")]


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def signed(key: RSAPrivateKey, **changes: Any) -> str:
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ext-jwt",
        "email": "jwt@example.com",
        "exp": int(time.time()) + 600,
        "roles": ["a", {"b": 1.5}],
    }
    return jwt.encode(claims | changes, key, algorithm="RS256", headers={"kid": "k1"})


def gateway(stack: Stack, key: RSAPrivateKey, *, forward_token: bool) -> bootstrap.Bootstrap:
    """A gateway before the stack's sidecar, whose Envoy verifies JWTs."""
    host, port, tls = provider_address(stack.services.openai_url)
    made = static_bootstrap(
        processors=[stack.sidecar.address],
        provider_host=host,
        provider_port=port,
        provider_tls=tls,
        listener_address="127.0.0.1",
        listener_port=0,
        forward_namespaces=[JWT_NAMESPACE],
    )
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    keys = json.dumps({"keys": [public | {"kid": "k1", "alg": "RS256", "use": "sig"}]})
    verify = jwt_authn.JwtAuthentication(
        providers={
            "p": jwt_authn.JwtProvider(
                issuer=ISSUER,
                audiences=[AUDIENCE],
                local_jwks=core.DataSource(inline_string=keys),
                forward=forward_token,
                payload_in_metadata="jwt_payload",
            )
        },
        rules=[
            jwt_authn.RequirementRule(
                match=route.RouteMatch(prefix="/"),
                requires=jwt_authn.JwtRequirement(provider_name="p"),
            )
        ],
    )
    assert made.static_resources is not None
    network = made.static_resources.listeners[0].filter_chains[0].filters[0]
    assert network.typed_config is not None
    manager = network.typed_config.unpack()
    assert isinstance(manager, hcm.HttpConnectionManager)
    manager.http_filters.insert(
        0, hcm.HttpFilter(name=JWT_NAMESPACE, typed_config=protobuf.Any.pack(verify))
    )
    network.typed_config = protobuf.Any.pack(manager)
    return made


@pytest.fixture
def verifying_envoy() -> Iterator[StartEnvoy]:
    """Starts a second Envoy, whose work folder is its own."""
    with tempfile.TemporaryDirectory(prefix="sx-jwt-") as folder, ExitStack() as running:

        def start(config: bootstrap.Bootstrap) -> str:
            return running.enter_context(start_envoy(config, work_dir=Path(folder))).url

        yield start


def chat(url: str, token: str | None, **headers: str) -> httpx.Response:
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    return httpx.post(
        f"{url}/v1/chat/completions", json=CHAT, headers=headers, trust_env=False, timeout=30
    )


@pytest.fixture
def stack(run_stack: StartStack) -> Stack:
    return run_stack(users=USERS, settings={"SENTINEL_IDENTITY__SOURCE": "envoy_jwt"})


@pytest.mark.parametrize("forward_token", [False, True])
def test_what_envoy_verified_is_enough_and_nothing_else_is(
    stack: Stack, verifying_envoy: StartEnvoy, key: RSAPrivateKey, forward_token: bool
) -> None:
    verifying = verifying_envoy(gateway(stack, key, forward_token=forward_token))
    assert stack.openai is not None
    good = signed(key)
    answer = chat(verifying, good)
    assert answer.status_code == 200, answer.text
    sent = dict(stack.openai.requests()[-1].headers)
    assert good not in json.dumps(sent)
    served = len(stack.openai.requests())

    # Refused by Envoy before we hear of it.
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    nobody = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    for bad in (
        None,
        signed(other),
        signed(key, exp=int(time.time()) - 600),
        signed(key, aud="somebody-else"),
        signed(key, iss="https://evil.example"),
        f"{nobody}.{good.split('.')[1]}.",
        good[:-8] + "AAAAAAAA",
    ):
        answer = chat(verifying, bad)
        assert answer.status_code in (401, 403)
        assert "x-sentinel-error" not in answer.headers

    # Without the filter there is no metadata, whatever the client sends.
    payload = good.split(".")[1]
    forged = {"jwt_payload": payload, JWT_NAMESPACE: payload, "x-envoy-metadata": payload}
    for token in (good, None):
        answer = chat(stack.url, token, **forged)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert len(stack.openai.requests()) == served


def test_who_is_verified_but_unusable_is_told_so(
    stack: Stack, verifying_envoy: StartEnvoy, key: RSAPrivateKey
) -> None:
    verifying = verifying_envoy(gateway(stack, key, forward_token=False))
    answer = chat(verifying, signed(key, sub=""))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "external_id_missing")
    answer = chat(verifying, signed(key, sub="ext-nobody"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "user_not_found")


def test_static_keys(run_stack: StartStack, work_dir: Path) -> None:
    file = work_dir / "keys.yaml"
    file.write_text(f'- {{sha256: "{digest("sk-one")}", external_id: ext-jwt}}\n')
    stack = run_stack(
        users=USERS,
        settings={
            "SENTINEL_IDENTITY__SOURCE": "static",
            "SENTINEL_IDENTITY__STATIC_KEYS_FILE": str(file),
        },
    )
    assert chat(stack.url, "sk-one").status_code == 200
    assert chat(stack.url, "not-used").status_code == 401
    assert chat(stack.url, digest("sk-one")).status_code == 401


def test_jwts_checked_here(run_stack: StartStack, key: RSAPrivateKey) -> None:

    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))

    async def keys(_: Request) -> Response:
        return JSONResponse({"keys": [public | {"kid": "k1", "alg": "RS256", "use": "sig"}]})

    with serve_app(Starlette(routes=[Route("/keys", keys)]), name="issuer") as issuer:
        stack = run_stack(
            users=USERS,
            settings={
                "SENTINEL_IDENTITY__SOURCE": "jwt",
                "SENTINEL_IDENTITY__JWT_ISSUER": ISSUER,
                "SENTINEL_IDENTITY__JWT_AUDIENCE": AUDIENCE,
                "SENTINEL_IDENTITY__JWKS_URL": f"{issuer.url}/keys",
            },
        )
        assert chat(stack.url, signed(key)).status_code == 200
        assert chat(stack.url, signed(key, aud="other")).status_code == 401
        confused = jwt.api_jws.encode(
            json.dumps({"iss": ISSUER, "aud": AUDIENCE, "sub": "ext-jwt", "exp": 2**33}).encode(),
            hashlib.sha256(json.dumps(public).encode()).digest(),
            algorithm="HS256",
            headers={"kid": "k1"},
        )
        assert chat(stack.url, confused).status_code == 401
        assert chat(stack.url, "not-a-jwt").status_code == 401
