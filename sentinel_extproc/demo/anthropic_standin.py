"""A stand-in for Anthropic's API: whole messages, with the checks of its headers."""

from __future__ import annotations

import json
from typing import Any

import click
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sentinel_extproc.demo.hosting import server_config
from sentinel_extproc.demo.openai_records import SeenRequest

INPUT_TOKENS = 12
OUTPUT_TOKENS = 5
"""What every answer says it cost."""


class AnthropicStandIn:
    """The stand-in's state and its ASGI ``app``.

    Args:
        provider_key: the only ``x-api-key`` that it accepts.
    """

    def __init__(self, *, provider_key: str) -> None:
        self._provider_key = provider_key
        self._requests: list[SeenRequest] = []
        self.app = Starlette(routes=[Route("/v1/messages", self._messages, methods=["POST"])])

    def requests(self) -> list[SeenRequest]:
        """Every request so far."""
        return list(self._requests)

    async def _messages(self, request: Request) -> Response:
        body = await request.body()
        headers = request.headers
        # The real one takes a bearer token for another kind of account.
        keyed = headers.getlist("x-api-key") == [self._provider_key]
        authorized = keyed and "authorization" not in headers
        self._requests.append(
            SeenRequest(
                method=request.method,
                path=request.url.path,
                headers=tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in headers.raw),
                body=body.decode(errors="replace"),
                body_bytes=len(body),
                authorized=authorized,
            )
        )
        if not authorized:
            return _refusal(401, "authentication_error", "invalid x-api-key")
        if "anthropic-version" not in headers:
            return _refusal(400, "invalid_request_error", "anthropic-version: header is required")
        answer = {
            "id": "msg_standin",
            "type": "message",
            "role": "assistant",
            "model": json.loads(body)["model"],
            "content": [{"type": "text", "text": "Hello there, my friend"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
        }
        account = {
            "anthropic-organization-id": "org-ours",
            "anthropic-ratelimit-requests-limit": "50",
        }
        return JSONResponse(answer, headers=account)


def _refusal(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"type": "error", "error": {"type": kind, "message": message}}, status)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8083, show_default=True)
@click.option("--provider-key", envvar="ANTHROPIC_API_KEY", required=True, show_envvar=True)
def main(**options: Any) -> None:
    """Serve the Anthropic stand-in until it is stopped."""
    standin = AnthropicStandIn(provider_key=options["provider_key"])
    uvicorn.Server(server_config(standin.app, host=options["host"], port=options["port"])).run()


if __name__ == "__main__":
    main()
