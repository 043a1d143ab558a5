"""A receiver of traces for tests, over HTTP and gRPC: keeps every span, and can refuse or hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
DEADLINE_S = 30.0


@dataclass(frozen=True)
class Received:
    """A span, with what its sender calls itself and the headers that came along."""

    span: Span
    service: str
    headers: dict[str, str]

    @property
    def attributes(self) -> dict[str, object]:
        return plain(self.span.attributes)

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def span_id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.span.parent_span_id.hex()


@dataclass
class Receiver:
    """What came; ``status`` other than 200 refuses, ``hold`` keeps senders waiting until set."""

    url: str = ""
    status: int = 200
    hold: threading.Event = field(default_factory=threading.Event)
    requests: int = 0
    received: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hold.set()

    def take(self, raw: bytes, headers: dict[str, str]) -> bool:
        self.requests += 1
        self.hold.wait(DEADLINE_S)
        if self.status != 200:
            return False
        for resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
            service = str(plain(resource.resource.attributes).get("service.name", ""))
            for scope in resource.scope_spans:
                self.received += [Received(span, service, headers) for span in scope.spans]
        return True

    def wait_for(self, what: Callable[[list[Received]], bool]) -> list[Received]:
        """All that came, once ``what`` is true of it."""
        end = time.monotonic() + DEADLINE_S
        while not what(list(self.received)):
            assert time.monotonic() < end, [one.span.name for one in self.received]
            time.sleep(0.02)
        return list(self.received)


def plain(attributes: Iterable[KeyValue]) -> dict[str, object]:
    """Attributes as Python values."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in attributes}


@contextmanager
def http_receiver() -> Iterator[Receiver]:
    """One at ``http://127.0.0.1:…``, for any path."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken = receiver.take(self._body(), {k.lower(): v for k, v in self.headers.items()})
            self.send_response(200 if taken else receiver.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def _body(self) -> bytes:
            if length := self.headers["content-length"]:
                return self.rfile.read(int(length))
            body = b""  # Envoy sends chunks
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *args: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield receiver
    finally:
        receiver.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def grpc_receiver() -> Iterator[Receiver]:
    """The same for gRPC."""
    receiver = Receiver()

    def export(raw: bytes, context: grpc.ServicerContext) -> bytes:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        if not receiver.take(raw, headers):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
        return ExportTraceServiceResponse().SerializeToString()

    class Handler(grpc.GenericRpcHandler):
        def service(
            self, details: grpc.HandlerCallDetails
        ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
            return grpc.unary_unary_rpc_method_handler(export) if details.method == EXPORT else None

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    receiver.url = f"http://127.0.0.1:{port}"
    try:
        yield receiver
    finally:
        receiver.hold.set()
        server.stop(None).wait()
