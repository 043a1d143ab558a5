"""A stand-in for the paid provider, with real token counts: chat and text completions, responses,
embeddings, models.

It refuses every credential but the provider's key, records what it saw and served, and fails on
demand: by the header ``x-standin-fault: NAME`` or by the model ``standin-NAME`` (see `Fault`).
``x-standin-tokens: N`` sets the length of an answer.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
import zlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import click
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, request_response

from sentinel_extproc.demo.hosting import drop_connection, server_config
from sentinel_extproc.demo.openai_calls import (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    Api,
    BadCall,
    Call,
    count,
    texts_or_tokens,
)
from sentinel_extproc.demo.openai_embeddings_wire import embeddings
from sentinel_extproc.demo.openai_records import WHOSE, Fault, SeenRequest, Served
from sentinel_extproc.demo.openai_wire import (
    DATED_MODELS,
    Completion,
    JsonObject,
    ShippedTokenizer,
    TextTokenizer,
    answer_headers,
    cut_into_deltas,
    error_body,
)

_MAX_RECORDED = 20_000
_MAX_RECORDED_BODY = 64 * 1024
_MAX_ANSWER_TOKENS = 100_000
_MAX_DIMENSIONS = 3072
_MODEL_PREFIX = "standin-"
_GZIP_WBITS = 31


class OpenAIStandIn:
    """The stand-in's state and its ASGI ``app``.

    Args:
        provider_key: the only credential that it accepts, until ``accept`` says otherwise.
        key_header: where it takes it from; a bearer token in ``authorization``, else bare.
        deployments: Azure's: names in paths to models.
        chunk_delay_s: seconds before each chunk of a stream.
        slow_s: that delay under the fault ``slow``, and before its JSON answers.
        counter: the tokenizer; tiktoken on the shipped ranks when omitted.
    """

    def __init__(
        self,
        *,
        provider_key: str,
        chunk_delay_s: float = 0.0,
        slow_s: float = 0.5,
        counter: TextTokenizer | None = None,
        key_header: str = "authorization",
        deployments: Mapping[str, str] | None = None,
    ) -> None:
        self._key_header = key_header
        self._deployments = dict(deployments or {})
        self.accept(provider_key)
        self._chunk_delay_s = chunk_delay_s
        self._slow_s = slow_s
        self._tokenizer = counter or ShippedTokenizer()
        self._requests: deque[SeenRequest] = deque(maxlen=_MAX_RECORDED)
        self._served: deque[Served] = deque(maxlen=_MAX_RECORDED)
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", partial(self._generate, CHAT), methods=["POST"]),
                Route("/v1/completions", partial(self._generate, COMPLETIONS), methods=["POST"]),
                Route("/v1/responses", partial(self._generate, RESPONSES), methods=["POST"]),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route(
                    "/openai/deployments/{deployment}/chat/completions",
                    partial(self._generate, CHAT),
                    methods=["POST"],
                ),
                Route("/openai/v1/responses", partial(self._generate, RESPONSES), methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/_standin/requests", self._show_requests, methods=["GET"]),
                Route("/_standin/served", self._show_served, methods=["GET"]),
                Route("/_standin/reset", self._reset, methods=["POST"]),
                # An app rather than a function: those are for any method.
                Mount("/", request_response(self._unknown)),
            ]
        )

    def pace(self, chunk_delay_s: float) -> None:
        """From now on wait so many seconds before each chunk, in streams that run too."""
        self._chunk_delay_s = chunk_delay_s

    def accept(self, *keys: str) -> None:
        """Take these credentials from now on, and no others."""
        bearer = "Bearer " if self._key_header == "authorization" else ""
        self._accepted = {f"{bearer}{key}" for key in keys}

    def requests(self) -> list[SeenRequest]:
        """Every request to the API so far, the latest 20,000 at most."""
        return list(self._requests)

    def served(self) -> list[Served]:
        """Every answer so far, in the order in which they ended; the latest 20,000 at most."""
        return list(self._served)

    async def _generate(self, api: Api, request: Request) -> Response:
        asked = await self._asked(request)
        if isinstance(asked, Response):
            return asked
        try:
            call = api.read(self._tokenizer, asked)
        except BadCall as bad:
            return _invalid(str(bad), param=bad.param)
        fault = _fault(request, asked["model"])
        if response := await self._fail_early(request, fault):
            return response
        completion = self._complete(request, api, asked["model"], call)
        if asked.get("stream"):
            usage = not api.asks_for_usage or _wants_usage(asked)
            return self._stream(request, asked, completion, fault, include_usage=usage)
        return await self._answer(request, asked, completion, fault)

    async def _embeddings(self, request: Request) -> Response:
        asked = await self._asked(request)
        if isinstance(asked, Response):
            return asked
        model: str = asked["model"]
        try:
            given = texts_or_tokens(asked.get("input"), "input")
        except BadCall as bad:
            return _invalid(str(bad), param=bad.param)
        fault = _fault(request, model)
        if response := await self._fail_early(request, fault):
            return response
        size = asked.get("dimensions")
        tokens = sum(count(self._tokenizer, model, one) for one in given)
        content = embeddings(
            model,
            given,
            tokens=tokens,
            dimensions=size if isinstance(size, int) and 1 <= size <= _MAX_DIMENSIONS else None,
            as_base64=asked.get("encoding_format") == "base64",
            with_usage=fault is not Fault.NO_USAGE,
        )
        answer_id = f"embd-{uuid.uuid4().hex}"
        served = Served(answer_id, model, model, False, True, tokens, 0, **_whose(request))
        return await self._send(request, content, fault, served)

    async def _asked(self, request: Request) -> JsonObject | Response:
        body = await request.body()
        if refusal := self._record(request, body):
            return refusal
        try:
            asked = json.loads(body)
        except ValueError:
            return _invalid("We could not parse the JSON body of your request.")
        if isinstance(asked, dict) and "deployment" in request.path_params:
            # Azure goes by the path, whatever the body says.
            asked["model"] = self._deployments.get(request.path_params["deployment"])
        if not isinstance(asked, dict) or not isinstance(asked.get("model"), str):
            return _invalid("you must provide a model parameter", param="model")
        return asked

    async def _fail_early(self, request: Request, fault: Fault | None) -> Response | None:
        if fault is Fault.ERROR_500:
            message = "The server had an error while processing your request."
            return JSONResponse(
                error_body(message, type_="server_error", code=None), 500, answer_headers()
            )
        if fault is Fault.ERROR_429:
            message = "Rate limit reached for requests"
            return JSONResponse(
                error_body(message, type_="requests", code="rate_limit_exceeded"),
                429,
                answer_headers() | {"retry-after": "1"},
            )
        if fault is Fault.HANG:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return Response(status_code=499)
        return None

    def _complete(self, request: Request, api: Api, model: str, call: Call) -> Completion:
        pieces = self._tokenizer.pieces(model, call.text)
        wanted = request.headers.get("x-standin-tokens")
        if wanted is not None and wanted.isdigit():
            length = min(int(wanted), _MAX_ANSWER_TOKENS)
            pieces = (pieces * (length // len(pieces) + 1))[:length]
        cap = len(pieces) if call.cap is None else call.cap
        deltas, tokens = cut_into_deltas(pieces[:cap])
        return api.answer(
            id=f"{api.id_prefix}{uuid.uuid4().hex[:29]}",
            created=int(time.time()),
            model=DATED_MODELS.get(model) or model,
            choices=call.choices,
            deltas=deltas,
            tokens=tokens,
            finish_reason="length" if cap < len(pieces) else "stop",
            prompt_tokens=call.prompt_tokens,
        )

    async def _answer(
        self, request: Request, asked: JsonObject, completion: Completion, fault: Fault | None
    ) -> Response:
        content = completion.as_json(with_usage=fault is not Fault.NO_USAGE)
        served = _served(request, asked, completion, streamed=False)
        return await self._send(request, content, fault, served)

    async def _send(
        self, request: Request, answer: JsonObject, fault: Fault | None, served: Served
    ) -> Response:
        if fault is Fault.SLOW:
            await asyncio.sleep(self._slow_s)
        content = json.dumps(answer).encode()
        if fault is Fault.GARBAGE:
            content = b'{"id": "chatcmpl-\xff\xfe", "choices": [<html>'
        headers = answer_headers() | {"content-type": "application/json"}
        if fault is Fault.DROP_MIDSTREAM:

            async def half() -> AsyncIterator[bytes]:
                yield content[: len(content) // 2]
                await drop_connection(request.scope, request.receive)

            self._served.append(replace(served, complete=False))
            headers["content-length"] = str(len(content))
            return StreamingResponse(half(), headers=headers)
        if _compresses(request, fault):
            packer = zlib.compressobj(wbits=_GZIP_WBITS)
            content = packer.compress(content) + packer.flush()
            headers["content-encoding"] = "gzip"
        self._served.append(served)
        return Response(content, headers=headers)

    def _stream(
        self,
        request: Request,
        asked: JsonObject,
        completion: Completion,
        fault: Fault | None,
        *,
        include_usage: bool,
    ) -> Response:
        headers = answer_headers() | {"content-type": "text/event-stream; charset=utf-8"}
        include_usage = include_usage and fault is not Fault.NO_USAGE
        events = self._events(request, asked, completion, fault, include_usage=include_usage)
        if _compresses(request, fault):
            headers["content-encoding"] = "gzip"
            events = _gzipped(events)
        return StreamingResponse(events, headers=headers)

    async def _events(
        self,
        request: Request,
        asked: JsonObject,
        completion: Completion,
        fault: Fault | None,
        *,
        include_usage: bool,
    ) -> AsyncIterator[bytes]:
        sent, complete = 0, False
        try:
            for event, deltas in completion.chunks(include_usage=include_usage):
                # Asked each time: it may have been told to hurry.
                if delay := self._slow_s if fault is Fault.SLOW else self._chunk_delay_s:
                    await asyncio.sleep(delay)
                if fault is Fault.GARBAGE and deltas == 1:
                    yield b"data: {broken\n\ndata: \xff\xfe\n\n: a comment\n\nnonsense\n\n"
                sent = deltas  # before it is sent: whoever is cut off there may have got it
                yield event
                if fault is Fault.DROP_MIDSTREAM and deltas * 2 >= len(completion.deltas):
                    await drop_connection(request.scope, request.receive)
                    return
            if completion.done:
                yield completion.done
            complete = True
        finally:
            served = _served(request, asked, completion, streamed=True, sent=sent)
            self._served.append(replace(served, complete=complete))

    async def _models(self, request: Request) -> Response:
        if refusal := self._record(request, b""):
            return refusal
        models = sorted({*DATED_MODELS, *DATED_MODELS.values()})
        listed = [
            {"id": name, "object": "model", "created": 1_715_367_049, "owned_by": "system"}
            for name in models
        ]
        return JSONResponse({"object": "list", "data": listed}, headers=answer_headers())

    async def _unknown(self, request: Request) -> Response:
        if refusal := self._record(request, await request.body()):
            return refusal
        message = f"Invalid URL ({request.method} {request.url.path})"
        return JSONResponse(
            error_body(message, type_="invalid_request_error", code=None), 404, answer_headers()
        )

    def _record(self, request: Request, body: bytes) -> Response | None:
        credentials = request.headers.getlist(self._key_header)
        authorized = len(credentials) == 1 and credentials[0] in self._accepted
        self._requests.append(
            SeenRequest(
                method=request.method,
                path=request.url.path,
                headers=tuple(
                    (name.decode("latin-1"), value.decode("latin-1"))
                    for name, value in request.headers.raw
                ),
                body=body[:_MAX_RECORDED_BODY].decode(errors="replace"),
                body_bytes=len(body),
                authorized=authorized,
            )
        )
        if authorized:
            return None
        return JSONResponse(
            error_body(
                "Incorrect API key provided.",
                type_="invalid_request_error",
                code="invalid_api_key",
            ),
            401,
            answer_headers(),
        )

    async def _show_requests(self, _request: Request) -> Response:
        return JSONResponse([asdict(seen) for seen in self._requests])

    async def _show_served(self, _request: Request) -> Response:
        return JSONResponse([asdict(served) for served in self._served])

    async def _reset(self, _request: Request) -> Response:
        self._requests.clear()
        self._served.clear()
        return Response(status_code=204)


def _fault(request: Request, model: str) -> Fault | None:
    name = request.headers.get("x-standin-fault")
    if name is None and model.startswith(_MODEL_PREFIX):
        name = model.removeprefix(_MODEL_PREFIX)
    return Fault(name) if name in set(Fault) else None


def _wants_usage(asked: JsonObject) -> bool:
    options = asked.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _compresses(request: Request, fault: Fault | None) -> bool:
    return fault is Fault.GZIP or "gzip" in request.headers.get("accept-encoding", "")


def _served(
    request: Request,
    asked: JsonObject,
    completion: Completion,
    *,
    streamed: bool,
    sent: int | None = None,
) -> Served:
    given, generated = completion.used(deltas_sent=sent)
    return Served(
        id=completion.id,
        model_requested=asked["model"],
        model=completion.model,
        streamed=streamed,
        complete=True,
        prompt_tokens=given,
        completion_tokens=generated,
        **_whose(request),
    )


def _whose(request: Request) -> dict[str, str | None]:
    headers = request.headers
    return {name: headers.get(header) for name, header in WHOSE.items()}


def _invalid(message: str, *, param: str | None = None) -> Response:
    content = error_body(message, type_="invalid_request_error", code=None, param=param)
    return JSONResponse(content, 400, answer_headers())


async def _gzipped(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(wbits=_GZIP_WBITS)
    async for event in events:
        yield packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8081, show_default=True)
@click.option("--provider-key", envvar="OPENAI_API_KEY", required=True, show_envvar=True)
@click.option("--chunk-delay", default=0.02, show_default=True, help="Seconds before each chunk.")
def main(**options: Any) -> None:
    """Serve the OpenAI stand-in until it is stopped."""
    standin = OpenAIStandIn(
        provider_key=options["provider_key"], chunk_delay_s=options["chunk_delay"]
    )
    uvicorn.Server(server_config(standin.app, host=options["host"], port=options["port"])).run()


if __name__ == "__main__":
    main()
