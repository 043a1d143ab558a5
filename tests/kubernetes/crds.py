"""Published schemas of custom resources, applied as strictly as an API server does.

They are read from the folder that ``SENTINEL_CRDS`` names, else from ``../shared/data/crds`` beside
the checkout: envoyproxy/gateway (charts/gateway-helm) and istio/api, both Apache-2.0.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cel
import jsonschema
import pytest
import yaml

_FRAME = ("apiVersion", "kind", "metadata")
_ROOT = Path(__file__).resolve().parents[2]


class Crds:
    """The schemas of a folder, by ``group/version`` and kind."""

    def __init__(self, folder: Path) -> None:
        self._schemas: dict[tuple[str, str], dict[str, Any]] = {}
        for file in sorted(folder.glob("*.yaml")):
            definition = yaml.safe_load(file.read_text("utf-8"))["spec"]
            for version in definition["versions"]:
                key = (f"{definition['group']}/{version['name']}", definition["names"]["kind"])
                self._schemas[key] = version["schema"]["openAPIV3Schema"]

    def knows(self, value: Mapping[str, Any]) -> bool:
        """Whether there is a schema for this resource."""
        return (value["apiVersion"], value["kind"]) in self._schemas

    def schema(self, api_version: str, kind: str) -> dict[str, Any]:
        """One schema, as published."""
        return self._schemas[api_version, kind]

    def faults(self, value: Mapping[str, Any]) -> list[str]:
        """What an API server would have against it: structure, unknown fields, and rules."""
        # Every resource has the frame; some schemas don't say so.
        content = {key: item for key, item in value.items() if key not in _FRAME}
        return schema_faults(self._schemas[value["apiVersion"], value["kind"]], content)


def schema_faults(schema: Mapping[str, Any], value: Any) -> list[str]:
    """The same for one schema."""
    validator = jsonschema.Draft7Validator(_strict(schema))
    structural = [
        f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"
        for error in validator.iter_errors(value)
    ]
    return structural or list(_broken_rules(schema, _defaulted(schema, value), ""))


def find_crds() -> Crds:
    """The schemas; skips the test where there are none."""
    named = os.environ.get("SENTINEL_CRDS")
    folder = Path(named) if named else _ROOT.parent / "shared" / "data" / "crds"
    if not any(folder.glob("*.yaml")):
        pytest.skip("no custom resource definitions: set SENTINEL_CRDS to a folder of them")
    return Crds(folder)


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Unknown fields refused wherever the schema lists the known ones."""
    made: dict[str, Any] = {
        key: copy.deepcopy(item) for key, item in schema.items() if not key.startswith("x-")
    }
    if "properties" in schema:
        made["properties"] = {name: _strict(item) for name, item in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            made[key] = _strict(schema[key])
    return made


def _defaulted(schema: Mapping[str, Any], value: Any) -> Any:
    """With defaults filled in, which happens before rules are asked."""
    if isinstance(value, list):
        return [_defaulted(schema.get("items", {}), item) for item in value]
    if not isinstance(value, Mapping):
        return value
    known = schema.get("properties", {})
    defaults = {name: item["default"] for name, item in known.items() if "default" in item}
    return {
        name: _defaulted(known.get(name, {}), item) for name, item in {**defaults, **value}.items()
    }


def _broken_rules(schema: Mapping[str, Any], value: Any, place: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not cel.evaluate(rule["rule"], {"self": value}):
            yield f"{place}: {rule.get('message', rule['rule'])}"
    if isinstance(value, Mapping):
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name)
            if inner is not None:
                yield from _broken_rules(inner, item, f"{place}.{name}")
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, item in enumerate(value):
            yield from _broken_rules(schema["items"], item, f"{place}[{index}]")
