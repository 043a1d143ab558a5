"""Reads a configuration from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from sentinel_extproc.envoyconf.doctor.reading import Unreadable
from sentinel_extproc.envoyconf.doctor.snapshot import Snapshot, from_document

MAX_FILE_BYTES = 256 << 20
"""A mesh's whole config dump is some tens of MiB."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_file(path: Path) -> Snapshot:
    """Read a bootstrap or a saved config dump, YAML or JSON.

    Raises:
        Unreadable: there is no such file, or it is something else; the message has no path.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    if len(content) > MAX_FILE_BYTES:
        raise Unreadable(f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
    return load_text(content)


def load_text(content: bytes) -> Snapshot:
    """As ``load_file``, from memory."""
    try:
        decoded = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8 ({error.reason} at byte {error.start})") from error
    return from_document(_parsed(decoded))


def _parsed(decoded: str) -> Any:
    # JSON is YAML, but a hundred times faster to read as what it is.
    if decoded.lstrip().startswith("{"):
        try:
            return json.loads(decoded)
        except RecursionError as error:
            raise Unreadable("it is nested too deeply") from error
        except ValueError:
            pass  # YAML's flow style begins like that too
    try:
        documents = [
            document for document in yaml.load_all(decoded, Loader=_Loader) if document is not None
        ]
    except yaml.YAMLError as error:
        raise Unreadable(f"it is not YAML: {_one_line(error)}") from error
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error
    except (ValueError, OverflowError, TypeError) as error:  # impossible dates and numbers
        raise Unreadable(f"it is not YAML: {error}") from error
    if not documents:
        raise Unreadable("it is empty")
    if len(documents) > 1:
        kinds = {str(d.get("kind")) for d in documents if isinstance(d, dict) and "kind" in d}
        hint = f" (Kubernetes objects: {', '.join(sorted(kinds))})" if kinds else ""
        raise Unreadable(f"it has {len(documents)} documents{hint}; Envoy reads one bootstrap")
    return documents[0]


def _one_line(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{' '.join(str(problem).split())}{place}"
