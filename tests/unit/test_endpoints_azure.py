"""Azure's paths: the same endpoints, the deployment's name for a model, no way around."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.azure import Deployment, match_azure
from sentinel_extproc.endpoints.contract import Head
from sentinel_extproc.endpoints.table import CHAT, OTHER, RESPONSES
from sentinel_extproc.errors import InvalidRequest, NotFound

CHAT_AT = "/openai/deployments/gpt-prod/chat/completions?api-version=2024-10-21"
MESSAGES = [{"role": "user", "content": "hi"}]


def chat(target: str = CHAT_AT, **request: object) -> tuple[bytes, object]:
    body = json.dumps({"messages": MESSAGES} | request).encode()
    found = match_azure("POST", target)
    return body, found.endpoint.plan(body, Head(target=target))


def test_a_deployments_path_has_the_endpoints_rules() -> None:
    found = match_azure("POST", CHAT_AT)
    assert isinstance(found.endpoint, Deployment)
    assert (found.endpoint.name, found.path) == (CHAT.name, "/v1/chat/completions")


@pytest.mark.parametrize("path", ["/openai/v1/responses", "/openai/responses?api-version=x"])
def test_paths_without_a_deployment_are_the_tables_own(path: str) -> None:
    assert match_azure("POST", path).endpoint is RESPONSES


@pytest.mark.parametrize("model", [None, "gpt-4o-mini", "gpt-prod"])
def test_the_deployment_is_the_model_whatever_the_body_says(model: str | None) -> None:
    body = {"messages": MESSAGES, "max_tokens": 7} | ({} if model is None else {"model": model})
    plan = match_azure("POST", CHAT_AT).endpoint.plan(json.dumps(body).encode())
    assert plan.model == "gpt-prod"
    assert plan.count is not None
    assert plan.count.body["model"] == "gpt-prod"
    assert plan.output_cap == 7
    assert plan.upstream_body is None


def test_a_stream_is_asked_for_usage_where_the_version_knows_of_it() -> None:
    body = json.dumps({"messages": MESSAGES, "stream": True}).encode()
    new = match_azure("POST", CHAT_AT).endpoint.plan(body)
    assert new.hide_usage
    assert new.upstream_body is not None
    assert json.loads(new.upstream_body)["stream_options"] == {"include_usage": True}
    old = match_azure("POST", CHAT_AT.replace("2024-10-21", "2024-06-01")).endpoint.plan(body)
    assert (old.hide_usage, old.upstream_body) == (False, None)


@pytest.mark.parametrize(
    "path",
    [
        "/openai/Deployments/d/chat/completions",
        "/openai/deployments/d/Chat/Completions",
        "/openai/deployments/d%61/chat/completions",
        "/openai/deployments/d/chat/%63ompletions",
        "/openai/deployments//chat/completions",
        "/openai/deployments/d",
        "/openai/V1/chat/completions",
        "/openai/v1/CHAT/completions",
        "/openai/deployments/d/../e/chat/completions",
    ],
)
def test_other_spellings_of_a_call_are_refused(path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        match_azure("POST", path)
    assert refused.value.code == "ambiguous_path"


def test_capitals_in_ids_are_no_other_spelling() -> None:
    assert match_azure("GET", "/openai/files/file-ABC").endpoint.name == "files"


def test_outside_of_the_prefix_nothing_is_served() -> None:
    with pytest.raises(NotFound):
        match_azure("POST", "/v1/chat/completions")


def test_what_isnt_in_the_table_is_estimated_by_size() -> None:
    assert match_azure("POST", "/openai/assistants").endpoint is OTHER
    found = match_azure("POST", "/openai/deployments/d/extensions/chat/completions")
    plan = found.endpoint.plan(b'{"messages": []}')
    assert (found.endpoint.name, plan.model) == ("other", "d")
    assert plan.input_tokens > 0


def test_a_key_in_the_query_would_go_upstream_and_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        match_azure("GET", "/openai/realtime?deployment=d&Api-Key=users-own")


def test_a_realtime_session_is_of_the_deployment_in_its_query() -> None:
    target = "/openai/realtime?api-version=2024-10-01-preview&deployment=rt"
    plan = match_azure("GET", target).endpoint.plan_head(Head(target=target))
    assert plan is not None
    assert (plan.model, plan.endless) == ("rt", True)
    with pytest.raises(InvalidRequest):
        match_azure("GET", f"{target}&deployment=other")
