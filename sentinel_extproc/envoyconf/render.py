"""Typed configuration to the text that Envoy and Kubernetes read, with a word on what matters."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from betterproto2 import Message

_WIDTH = 100
_MARK = re.compile(r"( *)(- )?note-(\d+)-mark: null")


def to_dict(config: Message) -> dict[str, Any]:
    """Protobuf JSON with field names as in Envoy's documentation; defaults are left out."""
    # The library's own SNAKE makes `5_xx` of `5xx`, which Envoy doesn't know; the names are right.
    return config.to_dict(casing=_as_it_is)  # type: ignore[arg-type]


def _as_it_is(name: str) -> str:
    return name


def to_json(config: Message) -> str:
    """One JSON document; Envoy takes it wherever it takes YAML."""
    return json.dumps(to_dict(config), indent=2)


def to_yaml(config: Message, *, comment: str = "", notes: Mapping[str, str] | None = None) -> str:
    """YAML in the order of the fields' numbers, ``comment`` as its first lines.

    Args:
        notes: what to say above a field, by its name or ``parent.name``; said once.
    """
    return documents([to_dict(config)], comment=comment, notes=notes)


def documents(
    values: Iterable[Mapping[str, Any]],
    *,
    comment: str = "",
    notes: Mapping[str, str] | None = None,
) -> str:
    """The same for plain values, each a YAML document."""
    unsaid = dict(notes or {})
    texts = []
    for value in values:
        said: list[str] = []
        marked = _marked(value, "", unsaid, said)
        text = yaml.dump(marked, Dumper=_Plain, sort_keys=False, width=_WIDTH, allow_unicode=True)
        texts.append(_annotated(text, said))
    head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    return head + "---\n".join(texts)


class _Plain(yaml.SafeDumper):
    """Writes a value that occurs twice out twice; several lines of text as such."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Plain.add_representer(str, _text)


def _marked(value: Any, parent: str, unsaid: dict[str, str], said: list[str]) -> Any:
    """A copy with a marker in front of every field that there is a note for."""
    if isinstance(value, Mapping):
        copy: dict[str, Any] = {}
        for key, item in value.items():
            note = unsaid.pop(f"{parent}.{key}", None) or unsaid.pop(key, None)
            if note is not None:
                copy[f"note-{len(said)}-mark"] = None
                said.append(note)
            copy[key] = _marked(item, key, unsaid, said)
        return copy
    if isinstance(value, list | tuple):
        return [_marked(item, parent, unsaid, said) for item in value]
    return value


def _annotated(text: str, said: list[str]) -> str:
    """Markers become comments; one that begins a list's item hands on the dash."""
    lines: list[str] = []
    dash = ""
    for line in text.splitlines():
        found = _MARK.fullmatch(line)
        if found is None:
            lines.append(dash + line[len(dash) :])
            dash = ""
            continue
        indent = found[1] if found[2] or not dash else dash[:-2]
        width = _WIDTH - len(indent) - 2
        lines += [f"{indent}# {part}" for part in textwrap.wrap(said[int(found[3])], width)]
        if found[2]:
            dash = f"{indent}- "
    return "".join(f"{line}\n" for line in lines)
