"""What the settings of tracing mean together: its headers, and which of them can't go together."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from sentinel_extproc.config.sections.operating import TracingSettings

MAX_FILE_BYTES = 64 << 10

_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")
_NEEDED = MappingProxyType(
    {
        "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
        "grpc": "opentelemetry.exporter.otlp.proto.grpc",
    }
)


def tracing_headers(file: Path | None) -> dict[str, str]:
    """What the file has, names in lower case.

    Raises:
        OSError, ValueError: it can't be read, or isn't made of such lines; never with a value.
    """
    if file is None:
        return {}
    with file.open("rb") as opened:
        raw = opened.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
    headers: dict[str, str] = {}
    for number, line in enumerate(raw.decode("utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"line {number} is not `name: value`")
        headers[found[1].lower()] = found[2]
    return headers


def tracing_faults(tracing: TracingSettings) -> list[str]:
    """Faults that no single setting shows; ``where: what is wrong``."""
    if tracing.endpoint is None:
        return []
    faults = []
    try:
        found = find_spec(_NEEDED[tracing.protocol]) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        faults.append(
            "tracing.endpoint: OpenTelemetry is missing; pip install '.[tracing]' in a checkout"
        )
    try:
        tracing_headers(tracing.headers_file)
    except UnicodeDecodeError:
        faults.append(f"tracing.headers_file: {tracing.headers_file} is not UTF-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        faults.append(f"tracing.headers_file: {tracing.headers_file}: {why}")
    faults += [
        f"tracing.{name}: {path} can't be read"
        for name in ("ca_file", "client_cert_file", "client_key_file")
        if (path := getattr(tracing, name)) is not None and not os.access(path, os.R_OK)
    ]
    if (tracing.client_cert_file is None) != (tracing.client_key_file is None):
        faults.append(
            "tracing.client_cert_file: needs tracing.client_key_file, and the other way round"
        )
    return faults
