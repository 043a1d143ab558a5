"""Which provider a request is for, what it gets there, and which rules hold."""

from __future__ import annotations

import pytest

from sentinel_extproc.endpoints.messages import Messages
from sentinel_extproc.envoyconf.local_reply import GATEWAY_ERRORS
from sentinel_extproc.errors import InvalidRequest, NotFound
from sentinel_extproc.exchange.events import RequestHeaders
from sentinel_extproc.exchange.headers import GATEWAYS_OWN, Upstream, to_client, to_provider
from sentinel_extproc.exchange.intake import bearer
from sentinel_extproc.exchange.providers import (
    ANTHROPIC_VERSION,
    Chosen,
    Kind,
    Provider,
    ProviderTable,
    upstream_for,
)
from sentinel_extproc.identity.principal import Principal

ADA = Principal(external_id="ext-ada", user_id="u1", email="ada@example.org")


def provider(name: str, kind: Kind = Kind.OPENAI, **given: object) -> Provider:
    upstream = upstream_for(kind, f"key-of-{name}")
    return Provider(name, kind, lambda: upstream, **given)  # type: ignore[arg-type]


TABLE = ProviderTable(
    [
        provider("openai"),
        provider("azure", Kind.AZURE, path_prefix="/azure/"),
        provider("claude", Kind.ANTHROPIC, path_prefix="/anthropic/", models=("claude-*",)),
        provider("local", Kind.COMPATIBLE, hosts=("llm.example", "llm.example:8080")),
        provider("glm", Kind.COMPATIBLE, path_prefix="/glm/", api_prefix="/v4/"),
    ]
)


def asked(
    path: str,
    *more: tuple[str, bytes],
    host: str = "gw.example",
    route: str | None = None,
    method: bytes = b"POST",
) -> RequestHeaders:
    lines = [(":method", method), (":path", path.encode()), (":authority", host.encode()), *more]
    return RequestHeaders(lines, end_of_stream=False, route=route)


def sent(chosen: Chosen, event: RequestHeaders) -> dict[str, bytes]:
    """The headers as the provider gets them."""
    changed, removed = to_provider(event.headers, chosen.upstream, ADA, "x-1")
    return {n: v for n, v in event.headers if n not in removed} | dict(changed)


@pytest.mark.parametrize(
    ("path", "host", "name"),
    [
        ("/v1/chat/completions", "gw.example", "openai"),
        ("/azure/openai/deployments/d/chat/completions?api-version=2024-10-21", "x", "azure"),
        ("/anthropic/v1/messages", "gw.example", "claude"),
        ("/v1/chat/completions", "llm.example", "local"),
        ("/v1/chat/completions", "LLM.example:8080", "local"),
        ("/glm/v4/chat/completions", "gw.example", "glm"),
    ],
)
def test_host_and_longest_prefix_choose(path: str, host: str, name: str) -> None:
    chosen = TABLE(asked(path, host=host))
    assert chosen.name == name
    assert chosen.upstream.credentials[0][1].endswith(f"key-of-{name}".encode())


@pytest.mark.parametrize(
    "host", ["llm.example:9", "llm.example:", "LLM.example.", "llm.example.:9"]
)
def test_where_gateways_differ_about_a_host_only_the_route_decides(host: str) -> None:
    with pytest.raises(NotFound):
        TABLE(asked("/v1/models", host=host))
    assert TABLE(asked("/v1/models", host=host, route="openai")).name == "openai"
    assert TABLE(asked("/v1/models", host="gw.example:9")).name == "openai", "no doubt here"


def test_a_listed_host_has_its_own_providers_and_no_others() -> None:
    with pytest.raises(NotFound) as refused:
        ProviderTable([provider("openai"), provider("a", hosts=("h",), path_prefix="/a/")])(
            asked("/v1/models", host="h")
        )
    assert refused.value.code == "unknown_provider"


def test_the_route_that_envoy_chose_wins_over_what_a_client_wrote() -> None:
    by_path = asked("/azure/openai/deployments/d/embeddings")
    assert TABLE(by_path).name == "azure"
    assert TABLE(asked("/v1/embeddings", route="local", host="gw.example")).name == "local"
    with pytest.raises(NotFound):
        TABLE(asked("/azure/openai/deployments/d/embeddings", route="claude"))


def test_a_route_of_another_name_decides_nothing() -> None:
    assert TABLE(asked("/v1/embeddings", route="somebody's")).name == "openai"


def test_without_a_provider_for_it_a_path_is_404() -> None:
    with pytest.raises(NotFound) as refused:
        ProviderTable([provider("azure", Kind.AZURE, path_prefix="/azure/")])(
            asked("/v1/chat/completions")
        )
    assert (refused.value.status, refused.value.code) == (404, "unknown_provider")


@pytest.mark.parametrize(
    "path",
    ["/azure/../v1/chat/completions", "/azure//openai/v1/responses", "/azure/%2e%2e/v1/models"],
)
def test_ambiguous_paths_are_refused_before_a_provider_is_chosen_by_them(path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        TABLE(asked(path))
    assert refused.value.code == "ambiguous_path"


def test_one_call_has_one_path_for_limits_at_every_provider() -> None:
    paths = {
        TABLE(asked(path)).match.path
        for path in (
            "/v1/chat/completions",
            "/glm/v4/chat/completions",
            "/azure/openai/deployments/d/chat/completions",
            "/azure/openai/v1/chat/completions",
        )
    }
    assert paths == {"/v1/chat/completions"}


def test_each_kind_gets_its_credential_and_never_the_clients() -> None:
    client = (
        ("authorization", b"Bearer users-own"),
        ("api-key", b"users-own"),
        ("x-api-key", b"users-own"),
    )
    expected = {
        "/v1/chat/completions": ("authorization", b"Bearer key-of-openai"),
        "/azure/openai/v1/responses": ("api-key", b"key-of-azure"),
        "/anthropic/v1/messages": ("x-api-key", b"key-of-claude"),
    }
    for path, (name, value) in expected.items():
        event = asked(path, *client)
        headers = sent(TABLE(event), event)
        assert headers[name] == value
        assert not any(b"users-own" in value for value in headers.values())
        assert {"authorization", "api-key", "x-api-key"} & set(headers) == {name}


def test_anthropics_version_is_the_clients_own_or_ours() -> None:
    event = asked("/anthropic/v1/messages", ("anthropic-version", b"2024-01-01"))
    assert sent(TABLE(event), event)["anthropic-version"] == b"2024-01-01"
    event = asked("/anthropic/v1/messages")
    assert sent(TABLE(event), event)["anthropic-version"] == ANTHROPIC_VERSION


def test_what_anthropic_says_of_our_account_stays_here() -> None:
    answer = [
        (":status", b"200"),
        ("anthropic-organization-id", b"org"),
        ("anthropic-ratelimit-tokens-limit", b"9"),
        ("request-id", b"r"),
    ]
    _, removed = to_client(answer, (), "x-1")
    assert removed == ("anthropic-organization-id", "anthropic-ratelimit-tokens-limit")


@pytest.mark.parametrize(
    ("status", "code", "kept"),
    [
        (b"502", b"bad_gateway", True),
        (b"503", b"service_unavailable", True),
        (b"504", b"gateway_timeout", True),
        (b"503", b"identity_unavailable", False),
        (b"200", b"service_unavailable", False),
        (b"429", b"rate_limit_exceeded", False),
    ],
)
def test_our_error_code_is_kept_on_envoys_own_answers_and_on_no_others(
    status: bytes, code: bytes, *, kept: bool
) -> None:
    _, removed = to_client([(":status", status), ("x-sentinel-error", code)], (), "x-1")
    assert ("x-sentinel-error" not in removed) is kept


def test_the_gateways_own_answers_are_those_that_are_rendered() -> None:
    rendered = {str(error.status).encode(): error.code.encode() for error in GATEWAY_ERRORS}
    assert rendered == GATEWAYS_OWN


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("/azure/openai/v1/responses", "api-key"),
        ("/azure/openai/deployments/d/chat/completions", "api-key"),
        ("/anthropic/v1/models", "x-api-key"),
    ],
)
def test_clients_may_put_their_token_where_the_kind_wants_its_key(path: str, header: str) -> None:
    event = asked(path, (header, b"users-token"))
    found = TABLE(event).match
    assert bearer(event, found.key_header or found.endpoint.key_header) == "users-token"


def test_the_kinds_endpoints_are_those_of_the_table() -> None:
    assert isinstance(TABLE(asked("/anthropic/v1/messages")).match.endpoint, Messages)


def test_a_model_that_a_provider_isnt_for_is_refused() -> None:
    chosen = TABLE(asked("/anthropic/v1/messages"))
    chosen.check_model("claude-sonnet-4")
    chosen.check_model("")
    with pytest.raises(NotFound) as refused:
        chosen.check_model("gpt-5")
    assert refused.value.code == "model_not_found"


def test_a_header_of_the_operators_choice_carries_the_key() -> None:
    assert upstream_for(Kind.COMPATIBLE, "k", header="x-token").credentials == (("x-token", b"k"),)
    assert upstream_for(Kind.COMPATIBLE, None) == Upstream(())


def test_two_providers_cant_be_told_apart() -> None:
    with pytest.raises(ValueError, match="same name"):
        ProviderTable([provider("a"), provider("a", path_prefix="/x/")])
    with pytest.raises(ValueError, match="any host"):
        ProviderTable([provider("a"), provider("b")])
    ProviderTable([provider("a", hosts=("x",)), provider("b", hosts=("y",))])
