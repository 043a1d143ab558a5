"""Typed configuration to the text that Envoy reads."""

from __future__ import annotations

import json
from typing import Any

import yaml
from betterproto2 import Casing, Message


def to_dict(config: Message) -> dict[str, Any]:
    """Protobuf JSON with field names as in Envoy's documentation; defaults are left out."""
    return config.to_dict(casing=Casing.SNAKE)


def to_json(config: Message) -> str:
    """One JSON document; Envoy takes it wherever it takes YAML."""
    return json.dumps(to_dict(config), indent=2)


def to_yaml(config: Message, *, comment: str = "") -> str:
    """YAML in the order of the fields' numbers, ``comment`` as its first lines."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    return head + yaml.safe_dump(to_dict(config), sort_keys=False, width=100)
