"""Several providers behind the real Envoy: each gets its own key, and keys change under load."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from sentinel_extproc.demo.anthropic_standin import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    AnthropicStandIn,
)
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.openai_records import SeenRequest
from sentinel_extproc.demo.openai_standin import OpenAIStandIn
from sentinel_extproc.demo.stack import PROVIDER_KEY, Stack, start_stack
from sentinel_extproc.envoyconf.provider_way import ProviderWay
from tests.envoy.conftest import StartStack

TOKEN = "demo-ada"
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
AZURE = "/azure/openai/deployments/gpt-prod/chat/completions?api-version=2024-10-21"
_DEADLINE_S = 20.0


@dataclass(frozen=True)
class Gateway:
    """The stack, and the providers that it has beside its own."""

    stack: Stack
    azure: OpenAIStandIn
    claude: AnthropicStandIn
    key_file: Path

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        return httpx.post(
            self.stack.url + path, json=body, headers=headers, trust_env=False, timeout=30
        )


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    azure = OpenAIStandIn(
        provider_key="azure-1", key_header="api-key", deployments={"gpt-prod": "gpt-4o"}
    )
    claude = AnthropicStandIn(provider_key="claude-key")
    with (
        tempfile.TemporaryDirectory(prefix="sx-many-") as folder,
        serve_app(azure.app, name="Azure") as azure_app,
        serve_app(claude.app, name="Anthropic") as claude_app,
        serve_app(OpenAIStandIn(provider_key=PROVIDER_KEY).app, name="unused") as unused,
    ):
        key_file = Path(folder) / "azure.key"
        key_file.write_text("azure-1\n")
        entries = [
            {
                "name": "azure",
                "kind": "azure",
                "url": azure_app.url,
                "path_prefix": "/azure/",
                "api_key_file": str(key_file),
            },
            {
                "name": "claude",
                "kind": "anthropic",
                "url": claude_app.url,
                "path_prefix": "/anthropic/",
                "api_key": "claude-key",
            },
        ]
        with start_stack(
            work_dir=Path(folder),
            settings={
                "SENTINEL_LIMITS__REQUESTS": "100000",
                "SENTINEL_PROVIDERS": json.dumps(entries),
                "SENTINEL_TOKENS__ALIASES": '{"gpt-prod": "gpt-4o"}',
            },
            providers=[
                ProviderWay("azure", "127.0.0.1", azure_app.port, False, "/azure/"),
                ProviderWay("claude", "127.0.0.1", claude_app.port, False, "/anthropic/"),
                ProviderWay("default", "127.0.0.1", unused.port, False),
            ],
        ) as stack:
            yield Gateway(stack, azure, claude, key_file)


def credentials(seen: SeenRequest) -> dict[str, str]:
    names = ("authorization", "api-key", "x-api-key")
    return {name: value for name in names if (value := seen.header(name)) is not None}


def test_azure_gets_its_key_and_its_own_path(gateway: Gateway) -> None:
    answer = gateway.post(AZURE, CHAT, **{"api-key": TOKEN})
    assert answer.status_code == 200, answer.text
    seen = gateway.azure.requests()[-1]
    assert credentials(seen) == {"api-key": "azure-1"}
    assert seen.path == "/openai/deployments/gpt-prod/chat/completions"
    assert TOKEN not in str(seen)


def test_a_deployments_stream_is_metered_by_its_usage(gateway: Gateway) -> None:
    before = len(gateway.azure.served())
    answer = gateway.post(AZURE, CHAT | {"stream": True}, authorization=f"Bearer {TOKEN}")
    assert answer.status_code == 200
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert '"usage"' not in answer.text
    assert len(gateway.azure.served()) == before + 1
    assert json.loads(gateway.azure.requests()[-1].body)["stream_options"]["include_usage"] is True


def test_anthropic_gets_its_key_and_the_clients_version(gateway: Gateway) -> None:
    body = {"model": "claude-sonnet-4", "max_tokens": 9, "messages": CHAT["messages"]}
    version = {"anthropic-version": "2023-01-01"}
    answer = gateway.post("/anthropic/v1/messages", body, **{"x-api-key": TOKEN}, **version)
    assert answer.status_code == 200, answer.text
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    assert answer.json()["usage"] == usage
    assert "anthropic-organization-id" not in answer.headers
    seen = gateway.claude.requests()[-1]
    assert credentials(seen) == {"x-api-key": "claude-key"}
    assert seen.header("anthropic-version") == "2023-01-01"
    answer = gateway.post("/anthropic/v1/messages", body, authorization=f"Bearer {TOKEN}")
    assert answer.status_code == 200, answer.text
    assert gateway.claude.requests()[-1].header("anthropic-version") is not None


def test_the_simple_form_serves_the_rest(gateway: Gateway) -> None:
    answer = gateway.post(
        "/v1/chat/completions", CHAT | {"model": "gpt-4o"}, authorization=f"Bearer {TOKEN}"
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/azure/openai/Deployments/gpt-prod/chat/completions",
        "/azure/openai/deployments/gpt-prod/Chat/completions",
        "/azure/openai/v1/realtime?api-key=x",
    ],
)
def test_no_spelling_gets_past(gateway: Gateway, path: str) -> None:
    before = len(gateway.azure.requests())
    answer = gateway.post(path, CHAT, authorization=f"Bearer {TOKEN}")
    assert answer.status_code == 400
    assert len(gateway.azure.requests()) == before


def test_a_key_changes_under_load_without_a_restart_or_a_failed_request(
    gateway: Gateway,
) -> None:
    statuses: list[int] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            answer = gateway.post(AZURE, CHAT, authorization=f"Bearer {TOKEN}")
            statuses.append(answer.status_code)

    # As one rotates: the provider knows both for a while.
    gateway.azure.accept("azure-1", "azure-2")
    client = threading.Thread(target=load)
    client.start()
    try:
        fresh = gateway.key_file.with_name("fresh")
        fresh.write_text("azure-2\n")
        fresh.rename(gateway.key_file)
        deadline = time.monotonic() + _DEADLINE_S
        while credentials(gateway.azure.requests()[-1]) != {"api-key": "azure-2"}:
            assert time.monotonic() < deadline, "the new key never came"
            time.sleep(0.05)
        gateway.azure.accept("azure-2")
        sent = len(statuses)
        while len(statuses) < sent + 3:
            assert time.monotonic() < deadline, "the load stopped"
            time.sleep(0.05)
    finally:
        stop.set()
        client.join(30)
    assert set(statuses) == {200}
    log = (gateway.key_file.parent / "sidecar.log").read_text()
    assert "provider_keys_taken" in log
    assert "azure-2" not in log


def test_the_key_goes_where_envoys_route_goes_whatever_the_host_says(
    run_stack: StartStack,
) -> None:
    """By the host it would be the other provider's, and that key would be told to this one."""
    claude = AnthropicStandIn(provider_key="claude-key")
    with serve_app(claude.app, name="Anthropic") as app:
        entry = {
            "name": "claude",
            "kind": "anthropic",
            "url": app.url,
            "hosts": ["claude.example"],
            "api_key": "claude-key",
        }
        stack = run_stack(
            settings={"SENTINEL_PROVIDERS": json.dumps([entry])},
            providers=[ProviderWay("claude", "127.0.0.1", app.port, False)],
        )
        answer = httpx.post(
            f"{stack.url}/v1/messages",
            json=CHAT | {"model": "claude-sonnet-4"},
            headers={"x-api-key": TOKEN},
            trust_env=False,
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        assert credentials(claude.requests()[-1]) == {"x-api-key": "claude-key"}


def test_a_provider_that_refuses_our_key_is_told_apart(run_stack: StartStack) -> None:
    stack = run_stack(settings={"OPENAI_API_KEY": "sk-withdrawn"})
    ask = CHAT | {"model": "gpt-4o-mini"}
    url, token = f"{stack.url}/v1/chat/completions", f"Bearer {TOKEN}"
    answer = httpx.post(
        url, json=ask, headers={"authorization": token}, trust_env=False, timeout=30
    )
    assert answer.status_code == 401
    assert answer.headers["x-sentinel-error"] == "provider_key_refused"
    ours = httpx.post(
        url, json=ask, headers={"authorization": "Bearer nobody"}, trust_env=False, timeout=30
    )
    assert (ours.status_code, ours.headers["x-sentinel-error"]) == (401, "invalid_api_key")

    admin = Path(stack.sidecar.address.removeprefix("unix:")).with_name("admin.sock")
    wanted = 'sentinel_provider_key_refusals_total{provider="default",status="401"} 1.0'
    end = time.monotonic() + 30
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(admin))) as client:
        while wanted not in client.get("http://sidecar/metrics").text:
            assert time.monotonic() < end
            time.sleep(0.05)
