"""grpc.health.v1 for our own HTTP/2: what Envoy's and Kubernetes' health checks ask."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from sentinel_extproc.transport.http2.head import Status
from sentinel_extproc.transport.http2.protocol import Abort, Method, ServedCall

_Answer = health_pb2.HealthCheckResponse
_MAX_WATCHERS = 100


class Health:
    """The state of some services, which always is the same for all.

    Args:
        services: names that are known; the empty one stands for the server.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services)
        self._status = _Answer.NOT_SERVING
        self._changed = asyncio.Event()
        self._watchers = 0

    @property
    def methods(self) -> Mapping[bytes, Method]:
        """What serves it, by path."""
        return {
            b"/grpc.health.v1.Health/Check": self._check,
            b"/grpc.health.v1.Health/Watch": self._watch,
        }

    def set_serving(self, serving: bool) -> None:
        """Say so to everybody who asks or watches."""
        self._status = _Answer.SERVING if serving else _Answer.NOT_SERVING
        self._changed.set()
        self._changed = asyncio.Event()

    async def _check(self, call: ServedCall) -> None:
        if await self._asked(call) not in self._services:
            raise Abort(Status.NOT_FOUND, "no such service")
        await call.write(_Answer(status=self._status).SerializeToString())

    async def _watch(self, call: ServedCall) -> None:
        if self._watchers >= _MAX_WATCHERS:
            raise Abort(Status.RESOURCE_EXHAUSTED, "too many watchers")
        known = await self._asked(call) in self._services
        self._watchers += 1
        try:
            while True:
                changed = self._changed
                # As the specification has it: an unknown service may become known.
                status = self._status if known else _Answer.SERVICE_UNKNOWN
                await call.write(_Answer(status=status).SerializeToString())
                await changed.wait()
        finally:
            self._watchers -= 1

    async def _asked(self, call: ServedCall) -> str:
        data = await call.read()
        try:
            return str(health_pb2.HealthCheckRequest.FromString(data or b"").service)
        except DecodeError:
            raise Abort(Status.INVALID_ARGUMENT, "not a HealthCheckRequest") from None
