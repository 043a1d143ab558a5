"""A stand-in for Zion, with its wire contract, a ledger to read, and faults to switch on.

Over HTTP, beside the API: ``GET /_standin/ledger`` (``.jsonl``), ``GET /_standin/requests``,
``PUT /_standin/faults/CALL`` with ``{"kind": …, "times"?, "retryAfterS"?, "retryAfterDate"?,
"email"?}``, ``DELETE /_standin/faults``, ``PUT /_standin/users`` with a user's fields,
``DELETE /_standin/users/TOKEN``.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import click
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sentinel_extproc.demo.hosting import drop_connection, server_config
from sentinel_extproc.demo.zion_faults import (
    FaultKind,
    ZionCall,
    ZionFault,
    failure,
    faulty_response,
    mentions,
    success,
)
from sentinel_extproc.demo.zion_state import (
    JsonObject,
    LedgerEntry,
    RowError,
    ZionState,
    ZionUser,
)

__all__ = [
    "FaultKind",
    "LedgerEntry",
    "ZionCall",
    "ZionFault",
    "ZionRequest",
    "ZionStandIn",
    "ZionUser",
]

Dialect = Literal["unified", "per_metric"]

MAX_BATCH = 1000
_MAX_RECORDED = 20_000


@dataclass(frozen=True, slots=True)
class ZionRequest:
    """A call as it arrived; credentials are not kept."""

    call: ZionCall
    items: int
    idempotency_key: str | None
    status: int


class ZionStandIn:
    """The stand-in's state and its ASGI ``app``; the methods may be called from any thread.

    Args:
        api_key: what ``x-api-key`` must be.
        dialect: the shape of limits and increments, as in the contract.
        deduplicate: whether items are recognised by their ``idempotencyKey``.
    """

    def __init__(
        self,
        *,
        api_key: str,
        users: Iterable[ZionUser],
        dialect: Dialect = "unified",
        deduplicate: bool = True,
    ) -> None:
        self._api_key = api_key
        self._lock = threading.Lock()
        self._state = ZionState(
            users=list(users), per_metric=dialect == "per_metric", deduplicate=deduplicate
        )
        self._faults: dict[ZionCall, ZionFault] = {}
        self._requests: deque[ZionRequest] = deque(maxlen=_MAX_RECORDED)
        self.app = Starlette(
            routes=[
                Route("/api/v1/users/me", self._me, methods=["GET"]),
                Route("/api/v1/limits/external/{external_id}", self._limits, methods=["GET"]),
                Route("/api/v1/usage/external/increment", self._increment, methods=["POST"]),
                Route("/api/v1/usage/external/batch-increment", self._batch, methods=["POST"]),
                Route("/_standin/ledger", self._show_ledger, methods=["GET"]),
                Route("/_standin/ledger.jsonl", self._show_ledger_lines, methods=["GET"]),
                Route("/_standin/requests", self._show_requests, methods=["GET"]),
                Route("/_standin/faults/{call}", self._put_fault, methods=["PUT"]),
                Route("/_standin/faults", self._delete_faults, methods=["DELETE"]),
                Route("/_standin/users", self._put_user, methods=["PUT"]),
                Route("/_standin/users/{token}", self._delete_user, methods=["DELETE"]),
            ]
        )

    def ledger(self) -> list[LedgerEntry]:
        """Every increment applied so far, in order."""
        with self._lock:
            return list(self._state.entries)

    @property
    def duplicates(self) -> int:
        """Items so far whose idempotency key had been seen before."""
        with self._lock:
            return self._state.duplicates

    def requests(self) -> list[ZionRequest]:
        """Every call so far, the latest 20,000 at most."""
        with self._lock:
            return list(self._requests)

    def set_fault(
        self,
        call: ZionCall | str,
        kind: FaultKind | str,
        *,
        times: int | None = None,
        retry_after_s: int = 1,
        retry_after_date: bool = False,
        email: str | None = None,
    ) -> None:
        """Make calls fail from now on; see `ZionFault`.

        Raises:
            ValueError: no such call or kind.
        """
        fault = ZionFault(FaultKind(kind), times, retry_after_s, retry_after_date, email)
        with self._lock:
            self._faults[ZionCall(call)] = fault

    def clear_faults(self) -> None:
        """Work normally again."""
        with self._lock:
            self._faults.clear()

    def put_user(self, user: ZionUser) -> None:
        """Add a user, or replace the one with the same id."""
        with self._lock:
            self._state.users = [u for u in self._state.users if u.id != user.id] + [user]

    def revoke(self, token: str) -> None:
        """Forget the user with this token."""
        with self._lock:
            self._state.users = [u for u in self._state.users if u.token != token]

    async def _me(self, request: Request) -> Response:
        if response := await self._fail(request, ZionCall.ME):
            return response
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        with self._lock:
            user = self._state.by_token(token) if scheme.lower() == "bearer" else None
            if user is None:
                return self._done(ZionCall.ME, failure(401, "Invalid or expired token"))
            return self._done(ZionCall.ME, success(self._state.profile(user)))

    async def _limits(self, request: Request) -> Response:
        if response := await self._fail(request, ZionCall.LIMITS):
            return response
        if not self._key_fits(request):
            return self._done(ZionCall.LIMITS, failure(401, "Invalid API key"))
        with self._lock:
            user = self._state.by_external_id(request.path_params["external_id"])
            if user is None:
                return self._done(ZionCall.LIMITS, failure(404, "User not found"))
            return self._done(
                ZionCall.LIMITS, success(self._state.limits(user, now=datetime.now(UTC)))
            )

    async def _increment(self, request: Request) -> Response:
        call = ZionCall.INCREMENT
        item = await _json(request)
        items = [item] if isinstance(item, dict) else []
        if response := await self._fail(request, call, items=items):
            return response
        if not self._key_fits(request):
            return self._done(call, failure(401, "Invalid API key"))
        with self._lock:
            try:
                user = self._state.apply(item, batch_key=request.headers.get("idempotency-key"))
            except RowError as refused:
                status = 404 if str(refused) == "User not found" else 400
                return self._done(call, failure(status, str(refused)))
            metrics = self._state.metrics(user)
            response = success(
                {"canUse": all(m["remaining"] > 0 for m in metrics.values())} | metrics
            )
            return self._done(call, response, items=1)

    async def _batch(self, request: Request) -> Response:
        call = ZionCall.BATCH
        body = await _json(request)
        items = body.get("increments") if isinstance(body, dict) else None
        if response := await self._fail(request, call, items=items):
            return response
        if not self._key_fits(request):
            return self._done(call, failure(401, "Invalid API key"))
        if not isinstance(items, list) or not items:
            return self._done(call, failure(400, "increments must be a list of 1 to 1000"))
        if len(items) > MAX_BATCH:
            return self._done(call, failure(413, "at most 1000 increments"))
        key = request.headers.get("idempotency-key")
        return self._done(call, success(self._apply_all(items, key)), items=len(items), key=key)

    def _apply_all(self, items: list[Any], key: str | None) -> JsonObject:
        with self._lock:
            fault = self._faults.get(ZionCall.BATCH)
            results = [
                self._state.refusal(item, "Refused on purpose")
                if fault is not None and fault.refuses_row(item)
                else self._state.result(item, batch_key=key)
                for item in items
            ]
        processed = sum(result["success"] for result in results)
        return {"processed": processed, "failed": len(results) - processed, "results": results}

    async def _fail(
        self, request: Request, call: ZionCall, *, items: object = None
    ) -> Response | None:
        fault = self._take_fault(call, items)
        if fault is None:
            return None
        if fault.kind is FaultKind.COMMIT_THEN_DROP and isinstance(items, list):
            self._apply_all(items, request.headers.get("idempotency-key"))
        if fault.kind in {FaultKind.DROP, FaultKind.COMMIT_THEN_DROP}:
            await drop_connection(request.scope, request.receive)
        if fault.kind is FaultKind.HANG:
            while (await request.receive())["type"] != "http.disconnect":
                pass
        return self._done(call, faulty_response(fault))

    def _take_fault(self, call: ZionCall, items: object) -> ZionFault | None:
        with self._lock:
            fault = self._faults.get(call)
            if fault is None:
                return None
            if fault.kind is FaultKind.POISON and not mentions(items, fault.email):
                return None
            if fault.kind is FaultKind.PARTIAL:
                return None  # the call as a whole works
            if fault.times is not None:
                if fault.times <= 0:
                    del self._faults[call]
                    return None
                fault.times -= 1
            return fault

    def _done(
        self, call: ZionCall, response: Response, *, items: int = 0, key: str | None = None
    ) -> Response:
        # deque.append is atomic, so this needs no lock and works with it held or not.
        self._requests.append(ZionRequest(call, items, key, response.status_code))
        return response

    def _key_fits(self, request: Request) -> bool:
        return request.headers.getlist("x-api-key") == [self._api_key]

    async def _show_ledger(self, _request: Request) -> Response:
        entries = [asdict(entry) for entry in self.ledger()]
        return JSONResponse({"entries": entries, "duplicates": self.duplicates})

    async def _show_ledger_lines(self, _request: Request) -> Response:
        """As ``sentinel-extproc usage verify --zion-ledger`` reads it."""
        lines = (
            json.dumps(
                {
                    "idempotencyKey": entry.key,
                    "externalId": entry.external_id,
                    "aiRequests": entry.requests,
                    "aiInputTokens": entry.input_tokens,
                    "aiOutputTokens": entry.output_tokens,
                }
            )
            for entry in self.ledger()
        )
        return Response("".join(f"{line}\n" for line in lines), media_type="application/jsonl")

    async def _show_requests(self, _request: Request) -> Response:
        return JSONResponse([asdict(request) for request in self.requests()])

    async def _put_fault(self, request: Request) -> Response:
        wanted = await _json(request)
        if not isinstance(wanted, dict):
            return failure(400, "a fault must be an object")
        try:
            self.set_fault(
                request.path_params["call"],
                wanted.get("kind", ""),
                times=wanted.get("times"),
                retry_after_s=int(wanted.get("retryAfterS", 1)),
                retry_after_date=bool(wanted.get("retryAfterDate", False)),
                email=wanted.get("email"),
            )
        except ValueError as fault:
            return failure(400, str(fault))
        return Response(status_code=204)

    async def _delete_faults(self, _request: Request) -> Response:
        self.clear_faults()
        return Response(status_code=204)

    async def _put_user(self, request: Request) -> Response:
        fields = await _json(request)
        if not isinstance(fields, dict):
            return failure(400, "a user must be an object")
        try:
            self.put_user(ZionUser(**fields))
        except TypeError as fault:
            return failure(400, str(fault))
        return Response(status_code=204)

    async def _delete_user(self, request: Request) -> Response:
        self.revoke(request.path_params["token"])
        return Response(status_code=204)


async def _json(request: Request) -> object:
    try:
        return json.loads(await request.body())
    except ValueError:
        return None


DEMO_USERS = (
    ZionUser("demo-ada", "u-ada", "ext-ada", "ada@example.com", "Ada"),
    ZionUser("demo-bo", "u-bo", "ext-bo", "bo@example.com", "Bo"),
    ZionUser("demo-guest", "u-guest", "ext-guest", "guest@example.com", "Guest"),
)
"""Who the demo's stand-in knows."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8082, show_default=True)
@click.option("--api-key", envvar="ZION_API_KEY", required=True, show_envvar=True)
@click.option(
    "--dialect", type=click.Choice(["unified", "per_metric"]), default="unified", show_default=True
)
@click.option("--deduplicate/--no-deduplicate", default=True, show_default=True)
def main(**options: Any) -> None:
    """Serve the Zion stand-in, with the demo's users, until it is stopped."""
    standin = ZionStandIn(
        api_key=options["api_key"],
        users=DEMO_USERS,
        dialect=options["dialect"],
        deduplicate=options["deduplicate"],
    )
    uvicorn.Server(server_config(standin.app, host=options["host"], port=options["port"])).run()


if __name__ == "__main__":
    main()
