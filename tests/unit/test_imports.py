"""Imports point one way, and what decides does no I/O."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sentinel_extproc"
NAME = "sentinel_extproc"

# Bottom to top. A module may import from its own layer and from those below.
LAYERS: list[set[str]] = [
    {
        "errors",
        "frozen",
        "lazy_commands",
        "memory",
        "pauses",
        "safe_text",
        "start_error",
        "terminal",
        "yaml_file",
        "__init__",
    },
    {"sse", "tokens.model", "identity.principal", "limits.model", "usage.record"},
    {"identity.bearer", "identity.claims", "identity.expiry", "limits.headers"},
    {"endpoints"},
    {"exchange"},
    {
        "tokens",
        "limits",
        "zion",
        "credentials",
        "telemetry",
        "telemetry.trace_context",
        "overload",
    },
    {
        "identity",
        "usage",
        "usage.chain",
        "usage.intent_slots",
        "usage.prices",
        "usage.rows",
        "usage.sealing",
        "usage.slots",
    },
    {"config"},
    {"reloading"},
    {"transport", "shadow"},
    {
        "workers.drawer",
        "workers.lifeline",
        "workers.place",
        "workers.shelf",
        "workers.supervision",
    },
    {"overload_parts", "redis_parts", "server_parts", "usage_parts"},
    {"outbox_parts"},
    {"admin"},
    {"identity_parts", "provider_parts"},
    {"exchange_parts", "start_report", "tracing_parts"},
    {"app"},
    {"workers"},
    {"usage_cli"},
    {"policy_cli", "live_cli", "loadtest"},
    {"envoyconf"},
    {"demo"},
    {"cli"},
    {"__main__"},
]

PURE = {
    "overload.admission",
    "overload.shedder",
    "shadow.report",
    "shadow.tally",
    "credentials.rotation",
    "errors",
    "frozen",
    "safe_text",
    "sse",
    "telemetry.trace_context",
    "endpoints",
    "exchange",
    "identity.bearer",
    "identity.claims",
    "identity.expiry",
    "limits.headers",
    "loadtest.answer",
    "loadtest.arrivals",
    "loadtest.charts",
    "loadtest.histogram",
    "loadtest.outcome",
    "loadtest.planning",
    "loadtest.report",
    "loadtest.spread",
    "loadtest.tally",
    "loadtest.thresholds",
    "usage.chain",
    "usage.intent_slots",
    "usage.prices",
    "usage.rows",
    "usage.sealing",
    "usage.slots",
    "workers.supervision",
}
NO_IO = {
    "asyncio",
    "concurrent",
    "grpc",
    "httpx",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "redis",
    "select",
    "socket",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
    "urllib.request",
    "uvloop",
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "pb" not in path.parts)


def dotted(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


def unit(module: str) -> str:
    """The longest name in LAYERS that ``module`` belongs to."""
    parts = module.split(".")
    for size in range(len(parts), 0, -1):
        name = ".".join(parts[:size])
        if any(name in layer for layer in LAYERS):
            return name
    raise AssertionError(f"{module} is in no layer: add it to LAYERS")


def rank(module: str) -> int:
    return next(place for place, layer in enumerate(LAYERS) if unit(module) in layer)


def imports(path: Path) -> list[str]:
    """Absolute names of everything that ``path`` imports, at any depth of nesting."""
    found: list[str] = []
    package = [NAME, *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{stem}.{alias.name}" if stem else alias.name for alias in node.names]
    return found


def own(name: str) -> str | None:
    """The module of ours that an imported name stands for, without the package's name."""
    if not name.startswith(NAME + "."):
        return None
    parts = name.split(".")[1:]
    for size in range(len(parts), 0, -1):
        stem = PACKAGE.joinpath(*parts[:size])
        if stem.with_suffix(".py").exists() or (stem / "__init__.py").exists():
            return ".".join(parts[:size])
    return None


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_point_down(path: Path) -> None:
    module = dotted(path)
    upward = [
        target
        for name in imports(path)
        if (target := own(name)) is not None and rank(target) > rank(module)
    ]
    assert not upward, f"{module} imports from above: {upward}"


@pytest.mark.parametrize("path", [p for p in modules() if unit(dotted(p)) in PURE], ids=dotted)
def test_what_decides_does_no_io(path: Path) -> None:
    bad = [name for name in imports(path) if name in NO_IO or name.split(".")[0] in NO_IO]
    assert not bad


def test_only_the_codec_knows_protobuf() -> None:
    users = {
        dotted(path)
        for path in modules()
        if any("protobuf" in name or name.endswith("_pb2") for name in imports(path))
    }
    # The health service brings its own messages; envoyconf builds files, not wire messages.
    users -= {"transport.grpcio_server", "transport.http2.health", "demo.sidecar"}
    assert {m for m in users if unit(m) != "envoyconf"} == {"transport.codec"}


def test_opentelemetry_is_imported_only_where_tracing_is_on() -> None:
    users = {
        dotted(path)
        for path in modules()
        if any(name.split(".")[0] == "opentelemetry" for name in imports(path))
    }
    assert users == {"telemetry.tracing.spans", "telemetry.tracing.otlp"}
    importers = {dotted(path): [own(name) for name in imports(path)] for path in modules()}
    callers = {module for module, names in importers.items() if users & set(names)}
    assert callers - users == {"tracing_parts"}


def test_the_demo_is_never_needed_to_serve() -> None:
    for path in modules():
        if unit(dotted(path)) in {"demo", "cli", "__main__"}:
            continue
        targets = {own(name) for name in imports(path)}
        assert not any(t and unit(t) == "demo" for t in targets), dotted(path)
