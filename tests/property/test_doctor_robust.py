"""Whatever a configuration looks like, the doctor says something and never fails."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel_extproc.config.load import only
from sentinel_extproc.envoyconf.doctor.attachment import Expectations, expected_by
from sentinel_extproc.envoyconf.doctor.diagnose import diagnose
from sentinel_extproc.envoyconf.doctor.load import load_text
from sentinel_extproc.envoyconf.doctor.meant import meant_by
from sentinel_extproc.envoyconf.doctor.reading import Unreadable
from sentinel_extproc.envoyconf.doctor.report import as_json, as_text
from sentinel_extproc.envoyconf.doctor.snapshot import from_document
from sentinel_extproc.envoyconf.examples import envoy_examples

GOOD = yaml.safe_load(envoy_examples()["envoy.yaml"])
TEXT = envoy_examples()["envoy.yaml"]

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["", "0s", "-1s", "1e9s", "99999999999999999999", "BUFFERED", "*", "a|b", "("]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree."""
    here = [path] if path else []
    children: Any = ()
    if isinstance(tree, dict):
        children = tree.items()
    elif isinstance(tree, list):
        children = enumerate(tree)
    return here + [found for key, child in children for found in paths(child, (*path, key))]


PLACES = paths(GOOD)
SETTINGS: tuple[dict[str, Any], ...] = (
    {"server": {"workers": 2, "tls_cert_file": "/c", "tls_key_file": "/k", "client_ca_file": "/a"}},
    {"server": {"mode": "shadow"}, "identity": {"source": "envoy_jwt"}},
    {
        "server": {"metering": "native", "listen": "0.0.0.0:50051"},
        "providers": [{"name": "own", "url": "http://10.0.0.1:1", "api_key": "k"}],
    },
)
EXPECTED = (
    Expectations(),
    *(expected_by(meant_by(only(values)), Expectations()) for values in SETTINGS),
)


def diagnosed(document: Any) -> None:
    for expected in EXPECTED:
        try:
            findings = diagnose(from_document(document), expected)
        except Unreadable:
            return
        assert as_text(findings)
        json.dumps(as_json(findings))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=4))
def test_any_value_anywhere(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    config = copy.deepcopy(GOOD)
    for path, value in changes:
        tree = config
        try:
            for step in path[:-1]:
                tree = tree[step]
            tree[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    diagnosed(config)
    diagnosed({"configs": [config, {"@type": "x.ListenersConfigDump", **config}]})


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_anything_at_all(document: Any) -> None:
    diagnosed(document)
    diagnosed({"static_resources": document, "layered_runtime": document, "admin": document})


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, len(TEXT)),
    st.integers(0, 60),
    st.text(max_size=12) | st.sampled_from("&*!{[|>%"),
)
def test_text_with_a_piece_replaced(start: int, length: int, put: str) -> None:
    content = (TEXT[:start] + put + TEXT[start + length :]).encode("utf-8", "replace")
    with contextlib.suppress(Unreadable):
        diagnose(load_text(content), Expectations())
