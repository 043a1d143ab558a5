"""The floor: a processor that says "go on" to every message, on grpc.aio or on our own HTTP/2.

    python -m bench.processor grpcio|native unix:/path

The same four messages for a JSON call as ours, and a reply for each chunk of a stream. Runs until
it is killed.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.transport.codec import decode, encode
from sentinel_extproc.transport.grpcio_server import GrpcioServer
from sentinel_extproc.transport.http2.server import Http2Server
from sentinel_extproc.transport.served import Stream

SERVERS = {"grpcio": GrpcioServer, "native": Http2Server}

_REPLIES = {
    on.RequestHeaders: do.Reply(do.Phase.REQUEST_HEADERS, mode=do.Mode.REQUEST_AND_STREAM),
    on.RequestBody: do.Reply(do.Phase.REQUEST_BODY),
    on.ResponseHeaders: do.Reply(do.Phase.RESPONSE_HEADERS),
    on.ResponseBody: do.Reply(do.Phase.RESPONSE_BODY),
}
_ENCODED = {kind: encode(reply) for kind, reply in _REPLIES.items()}


class Empty:
    """In place of the driver: decodes each message, and that is all."""

    live = 0

    async def run(self, stream: Stream) -> None:
        """Say "go on" until the stream ends."""
        while (data := await stream.read()) is not None:
            await stream.write(_ENCODED[type(decode(data))])

    def is_hopeless(self, stream: Stream) -> bool:  # noqa: ARG002
        """None is."""
        return False

    def hand_back(self) -> None:
        """There is nothing to hand back."""

    def logged(self, exchange_id: str, body_bytes: int) -> None:
        """Nobody asked for it."""


async def serve(kind: str, listen: str) -> None:
    """Serve until cancelled."""
    server = SERVERS[kind](Empty(), listen=listen)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:3]))
