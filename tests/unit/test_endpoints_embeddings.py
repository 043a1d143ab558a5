"""Embeddings and moderations: input only."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.embeddings import Embeddings
from sentinel_extproc.endpoints.meters import EDGE_BYTES
from sentinel_extproc.endpoints.moderations import Moderations
from sentinel_extproc.endpoints.provider_usage import find_member
from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.tokens.model import OutputCounter
from sentinel_extproc.usage.record import TokenUsage


def nothing_to_count(model: str) -> OutputCounter:
    raise AssertionError(f"a counter for {model} was asked for")


def encode(**fields: object) -> bytes:
    return json.dumps({"model": "text-embedding-3-small", "input": "x"} | fields).encode()


@pytest.mark.parametrize("given", ["x", "", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_embeddings_count_what_comes_and_reserve_no_output(given: object) -> None:
    plan = Embeddings().plan(encode(input=given))
    assert plan.count is not None
    assert plan.count.kind == "embeddings"
    assert plan.count.body["input"] == given
    assert plan.output_cap == 0


@pytest.mark.parametrize("given", [None, [], 5, {"text": "x"}])
@pytest.mark.parametrize("endpoint", [Embeddings(), Moderations()])
def test_no_usable_input(endpoint: Embeddings | Moderations, given: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        endpoint.plan(encode(input=given))
    assert caught.value.param == "input"


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
@pytest.mark.parametrize("first", [False, True])
def test_usage_is_found_at_either_end_of_megabytes_of_vectors(size: int, first: bool) -> None:
    usage = {"model": "served", "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    vectors = {"data": [{"embedding": [0.125] * (4 * EDGE_BYTES)}]}
    answer = json.dumps(usage | vectors if first else vectors | usage).encode()
    meter = Embeddings().meter(
        Embeddings().plan(encode()), event_stream=False, counters=nothing_to_count
    )
    for start in range(0, len(answer) if size > 1 else 0, size):
        assert meter.feed(answer[start : start + size], end=False) is None
    if size == 1:
        for byte in answer[:100] + answer[-3 * EDGE_BYTES :] if not first else answer[:EDGE_BYTES]:
            meter.feed(bytes([byte]), end=False)
    reading = meter.reading()
    assert reading.reported == TokenUsage(7, 0)
    assert reading.model_served == "served"


def test_an_answer_without_usage_reports_none() -> None:
    meter = Embeddings().meter(
        Embeddings().plan(encode()), event_stream=False, counters=nothing_to_count
    )
    meter.feed(b'{"data":[]}', end=True)
    assert meter.reading().reported is None
    assert meter.reading().output_tokens == 0


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"usage": {"a": 1}, "x": {"usage": 2}}', 2),
        (b'..."b64", "usage" : {"a": {"b": "}"}}, "metadata": {}}', {"a": {"b": "}"}}),
        (b'{"text": "say \\"usage\\": 5", "end": 1}', None),
        (b'{"usage": 3, "text": "\\"usage\\": 5"}', 3),
        (b'{"usage": {"a": 1}, "other": "usage"}', {"a": 1}),
        (b'{"usage": {"a": ', None),
        (b'"usage"', None),
        (b"", None),
        (b'"usage":{' * 100_000, None),
    ],
)
def test_a_member_is_found_in_a_stretch_of_json_and_never_in_a_text(
    data: bytes, value: object
) -> None:
    assert find_member(data, "usage") == value


def test_moderations_count_texts_and_not_pictures() -> None:
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9999}},
    ]
    plan = Moderations().plan(encode(input=parts))
    assert plan.count is not None
    assert plan.count.body["input"] == ["look", ""]
    assert plan.output_cap == 0
    assert plan.unwatched


def test_moderations_have_a_default_model() -> None:
    plan = Moderations().plan(b'{"input":["a","b"]}')
    assert plan.model == "omni-moderation-latest"
    assert plan.count is not None
    assert plan.count.body == {"model": plan.model, "input": ["a", "b"]}


def test_a_moderation_part_that_is_no_object() -> None:
    with pytest.raises(InvalidRequest):
        Moderations().plan(b'{"input":[5]}')
