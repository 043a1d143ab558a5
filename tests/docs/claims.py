"""What pages may name: tests, error codes, metrics, log events, as they are in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sentinel_extproc import errors
from sentinel_extproc.envoyconf.local_reply import GATEWAY_ERRORS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sentinel_extproc"


@dataclass(frozen=True, slots=True)
class Answer:
    """An error that somebody can be answered with.

    Attributes:
        admin: it is an answer of the admin port.
    """

    status: int
    code: str
    admin: bool


@cache
def proofs() -> frozenset[str]:
    """Every test function there is, whichever file it is in."""
    return frozenset(
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text("utf-8"), re.M)
    )


@cache
def texts() -> frozenset[str]:
    """Every text constant of the program: names of metrics and log events are among them."""
    return frozenset(
        node.value
        for tree, _ in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@cache
def answers() -> frozenset[Answer]:
    """Every status and code that the code can answer with."""
    found = {Answer(error.status, error.code, admin=False) for error in GATEWAY_ERRORS}
    classes = _classes()
    for tree, admin in _trees():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            made = _last_name(call.func)
            if made in classes:
                status, default = classes[made]
                for code in _codes(call) or {default}:
                    found.add(Answer(status, code, admin))
    return frozenset(found)


def _codes(call: ast.Call) -> set[str]:
    """Of ``code="a"`` and of ``code="a" if … else None``; empty: the class's own."""
    return {
        node.value
        for keyword in call.keywords
        if keyword.arg == "code"
        for node in ast.walk(keyword.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@cache
def _classes() -> dict[str, tuple[int, str]]:
    """Name of each error class → its status and default code; those of other modules too."""
    own = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    known = {
        kind.__name__: (kind.status, kind.default_code)
        for kind in own
        if issubclass(kind, errors.SentinelError)
    }
    del known["SentinelError"]  # nobody raises it by itself
    for tree, _ in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for base in {_last_name(base) for base in node.bases} & known.keys():
                    known.setdefault(node.name, _of_class(node, known[base]))
    return known


def _of_class(node: ast.ClassDef, base: tuple[int, str]) -> tuple[int, str]:
    """Status and code: as the class says, or as its base does."""
    status, code = base
    for child in ast.walk(node):
        match child:
            case ast.Assign(targets=[ast.Name(id="status")], value=ast.Constant(value=int(number))):
                status = number
            case ast.Assign(
                targets=[ast.Name(id="default_code")], value=ast.Constant(value=str(name))
            ):
                code = name
            case ast.Call():  # super().__init__(…, code="…")
                code = next(iter(_codes(child)), code)
    return status, code


def _last_name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _trees() -> Iterator[tuple[ast.Module, bool]]:
    """Each module of what serves, and whether it is the admin port's."""
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0]
        if part != "demo" and "pb" not in path.parts:
            yield _parsed(path), part in ("admin", "workers")


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))
