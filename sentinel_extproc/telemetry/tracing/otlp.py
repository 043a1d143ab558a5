"""OpenTelemetry's own exporters, as an ``Exporter``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from sentinel_extproc.telemetry.tracing.adapter import Traced
from sentinel_extproc.telemetry.tracing.spans import SpanMaker

HTTP_PATH = "/v1/traces"
"""Where OTLP receivers take traces, unless the address has a path of its own."""


class TlsFiles(NamedTuple):
    """PEM files: the authorities that replace the shipped ones, and our own certificate."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class OtlpExporter:
    """See the module.

    Args:
        endpoint: ``http://`` or ``https://`` address of the receiver.
        grpc: speak gRPC, else protobuf over HTTP.
        headers: sent with every export; their names in lower case.
        timeout_s: for one export, all its tries.
    """

    def __init__(
        self,
        maker: SpanMaker,
        *,
        endpoint: str,
        grpc: bool,
        headers: Mapping[str, str],
        timeout_s: float,
        tls: TlsFiles,
    ) -> None:
        # What they log of every failure is told once here, and counted.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        make = _grpc if grpc else _http
        self._maker = maker
        self._exporter = make(endpoint, headers, timeout_s, tls)

    def export(self, batch: Sequence[Traced]) -> str | None:
        """See ``Exporter.export``."""
        spans = [span for traced in batch for span in self._maker.spans(traced)]
        result = self._exporter.export(spans)
        return None if result is SpanExportResult.SUCCESS else "the receiver didn't take them"

    def close(self) -> None:
        """See ``Exporter.close``."""
        self._exporter.shutdown()


def _http(
    endpoint: str, headers: Mapping[str, str], timeout_s: float, tls: TlsFiles
) -> SpanExporter:
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    session = requests.Session()
    session.trust_env = False  # neither proxies nor somebody's .netrc
    return OTLPSpanExporter(
        endpoint=endpoint if urlsplit(endpoint).path else endpoint + HTTP_PATH,
        headers=dict(headers),
        timeout=timeout_s,
        certificate_file=_path(tls.ca),
        client_certificate_file=_path(tls.certificate),
        client_key_file=_path(tls.key),
        session=session,
    )


def _grpc(
    endpoint: str, headers: Mapping[str, str], timeout_s: float, tls: TlsFiles
) -> SpanExporter:
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    secure = endpoint.startswith("https:")
    credentials = grpc.ssl_channel_credentials(_pem(tls.ca), _pem(tls.key), _pem(tls.certificate))
    return OTLPSpanExporter(
        endpoint=endpoint,
        insecure=not secure,
        credentials=credentials if secure else None,
        headers=dict(headers),
        timeout=timeout_s,
        channel_options=(("grpc.enable_http_proxy", 0),),  # type: ignore[arg-type] # a number it is
    )


def _path(file: Path | None) -> str | None:
    return None if file is None else str(file)


def _pem(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()
