"""Derive the shipped tokenizer ranks from an installed package that carries them.

`bpe-openai` contains cl100k_base and o200k_base as the original files, compressed. Each is checked
against the SHA-256 that the installed tiktoken expects of its own download, repacked without the
base64 and the rank numbers, and checked again against the hash pinned in the sources. Nothing is
fetched. Run by `make encodings`; exit code 1 when anything differs.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import sys
import zlib
from importlib import resources
from pathlib import Path
from typing import Any
from unittest import mock

from tiktoken_ext import openai_public  # type: ignore[import-untyped]

from sentinel_extproc.tokens import encodings

DATA = Path(encodings.__file__).parent / "data"


def original(name: str) -> bytes:
    """The encoding's file as its publisher distributes it: lines of base64 token and rank."""
    packed = resources.files("bpe_openai").joinpath("data", f"{name}.tiktoken.gz").read_bytes()
    return gzip.decompress(packed)


def tiktoken_definition(name: str, content: bytes) -> dict[str, Any]:
    """What tiktoken would build `name` from, given `content` instead of its download.

    Raises:
        ValueError: `content` doesn't have the SHA-256 that tiktoken expects.
    """

    def load(_url: str, expected_hash: str | None = None) -> dict[bytes, int]:
        found = hashlib.sha256(content).hexdigest()
        if found != expected_hash:
            raise ValueError(f"{name}: SHA-256 {found}, tiktoken expects {expected_hash}")
        ranks = {}
        for line in content.splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
        return ranks

    with mock.patch.object(openai_public, "load_tiktoken_bpe", load):
        definition: dict[str, Any] = openai_public.ENCODING_CONSTRUCTORS[name]()
    return definition


def differences(name: str, definition: dict[str, Any], payload: bytes) -> list[str]:
    """In what `SHIPPED[name]` differs from tiktoken's definition, one line each."""
    shipped = encodings.SHIPPED[name]
    found = []
    digest = hashlib.sha256(payload).hexdigest()
    if digest != shipped.sha256:
        found.append(f"{name}: the payload's SHA-256 is {digest}, pinned is {shipped.sha256}")
    if len(definition["mergeable_ranks"]) != shipped.tokens:
        found.append(f"{name}: {len(definition['mergeable_ranks'])} tokens, not {shipped.tokens}")
    if definition["pat_str"] != shipped.pattern:
        found.append(f"{name}: the pattern differs from tiktoken's: {definition['pat_str']}")
    if definition["special_tokens"] != shipped.special_tokens:
        found.append(f"{name}: special tokens differ: {definition['special_tokens']}")
    return found


def main() -> int:
    """Write every file that checks out; 1 if any doesn't."""
    failed = False
    DATA.mkdir(exist_ok=True)
    for name in encodings.SHIPPED:
        definition = tiktoken_definition(name, original(name))
        ranks: dict[bytes, int] = definition["mergeable_ranks"]
        if sorted(ranks.values()) != list(range(len(ranks))):
            raise ValueError(f"{name}: ranks are not dense, the payload can't hold them")
        payload = encodings.pack(sorted(ranks, key=ranks.__getitem__))
        faults = differences(name, definition, payload)
        if faults:
            failed = True
            print("\n".join(faults), file=sys.stderr)
            continue
        packed = zlib.compress(payload, 9)
        target = DATA / f"{name}.ranks"
        target.write_bytes(packed)
        print(f"{name}: {len(ranks)} tokens, {len(packed)} bytes, {target.name}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
