"""Settings of traces: off without an address, every fault told, never a header's value."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sentinel_extproc.config.load import only
from sentinel_extproc.config.sections.operating import TracingSettings
from sentinel_extproc.config.tracing import tracing_faults, tracing_headers
from sentinel_extproc.tracing_parts import tracing_parts

COLLECTOR = "http://collector:4318"


def test_the_file_of_headers(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("# of the receiver\nX-Key:  a b=c \n\nauthorization: Bearer x:y\r\n")
    assert tracing_headers(file) == {"x-key": "a b=c", "authorization": "Bearer x:y"}
    assert tracing_headers(None) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"s3cret",
        b": s3cret",
        b"a b: s3cret",
        b"a:",
        b"a: \xc3\xa4s3cret",
        b"\xff",
        b"a: b\n" * 20_000,
    ],
)
def test_other_files_are_faults_without_their_content(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "headers"
    file.write_bytes(content)
    (fault,) = tracing_faults(TracingSettings(endpoint=COLLECTOR, headers_file=file))
    assert fault.startswith(f"tracing.headers_file: {file}")
    assert "s3cret" not in fault


def test_files_that_are_missing(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    tracing = TracingSettings(
        endpoint=COLLECTOR, headers_file=missing, ca_file=missing, client_cert_file=missing
    )
    where = [fault.partition(":")[0] for fault in tracing_faults(tracing)]
    assert where == [
        "tracing.headers_file",
        "tracing.ca_file",
        "tracing.client_cert_file",
        "tracing.client_cert_file",
    ]
    assert tracing_faults(tracing.model_copy(update={"endpoint": None})) == []


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinel_extproc.config.tracing.find_spec", lambda _name: None)
    for protocol in ("http/protobuf", "grpc"):
        tracing = TracingSettings.model_validate({"endpoint": COLLECTOR, "protocol": protocol})
        (fault,) = tracing_faults(tracing)
        assert "'.[tracing]'" in fault


async def test_without_an_address_there_is_nothing() -> None:
    async with AsyncExitStack() as stack:
        assert not tracing_parts(only({}), "one", stack).on
        assert tracing_parts(only({"tracing": {"endpoint": COLLECTOR}}), "one", stack).on
