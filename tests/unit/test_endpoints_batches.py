"""Batches: billed to who made them, once, when an answer tells what they cost."""

from __future__ import annotations

import asyncio
import json

import pytest

from sentinel_extproc.endpoints.batches import MAX_LISTED, read_known, read_new
from sentinel_extproc.endpoints.contract import Deferred
from sentinel_extproc.endpoints.table import match
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.exchange.states import State
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Quantities, Reservation
from sentinel_extproc.telemetry.facts import InternalFault
from sentinel_extproc.transport import claims
from sentinel_extproc.transport.background import Background
from sentinel_extproc.transport.claims import Claims
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage

ADA = Principal(external_id="ext-ada", user_id="u1", email="ada@example.org")
USAGE = {"input_tokens": 70, "output_tokens": 30, "total_tokens": 100}
COST = TokenUsage(70, 30)


def batch(name: str = "batch_1", status: str = "completed", **fields: object) -> dict[str, object]:
    return {"id": name, "object": "batch", "status": status, "usage": USAGE} | fields


class TestReading:
    def test_a_new_one_is_noted(self) -> None:
        assert read_new(batch(status="validating")).deferrals == (Deferred("batch_1"),)

    @pytest.mark.parametrize("answer", [{}, {"id": 5}, {"id": ""}, {"id": "x" * 200}, {"id": "é"}])
    def test_no_usable_id(self, answer: dict[str, object]) -> None:
        assert read_new(answer).deferrals == ()

    @pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
    def test_an_ended_one_tells_its_cost(self, status: str) -> None:
        assert read_known(batch(status=status)).deferrals == (Deferred("batch_1", COST),)

    @pytest.mark.parametrize(
        "answer",
        [
            batch(status="in_progress"),
            batch(status="cancelling"),
            batch(usage=None),
            batch(usage={"input_tokens": -1}),
            batch(id=None),
            batch() | {"status": []},
            {"data": "x"},
            {"data": [5, None]},
            {},
        ],
    )
    def test_what_tells_nothing(self, answer: dict[str, object]) -> None:
        assert read_known(answer).deferrals == ()

    def test_a_page_tells_of_each_and_is_bounded(self) -> None:
        page = {"data": [batch(f"b{n}") for n in range(MAX_LISTED + 50)]}
        assert len(read_known(page).deferrals) == MAX_LISTED

    @pytest.mark.parametrize(
        ("method", "path"), [("POST", "/v1/batches"), ("POST", "/v1/batches/")]
    )
    def test_a_creation_in_either_spelling(self, method: str, path: str) -> None:
        created = match(method, path).endpoint
        assert created is not match("GET", path).endpoint
        assert created is not match("POST", "/v1/batches/b/cancel").endpoint


def answered(
    answer: dict[str, object], *, method: bytes = b"GET", end: bool = True
) -> tuple[Exchange, do.Command]:
    machine = Exchange(
        exchange_id="x-1",
        started_at_ms=0,
        choose=only(Upstream((("authorization", b"Bearer sk"),))),
        counters=lambda _: pytest.fail("no text is counted"),
    )
    path = b"/v1/batches" if method == b"POST" else b"/v1/batches/batch_1"
    head = [(":method", method), (":path", path), ("authorization", b"Bearer user-token")]
    machine.handle(on.RequestHeaders(head, method == b"GET"))
    (reserve,) = machine.handle(on.Authenticated(ADA))
    assert isinstance(reserve, do.Reserve)
    assert reserve.request.predicted == Quantities(1, 0, 0, 0)
    machine.handle(on.Reserved(Reservation(reserve.request, reserve.request.predicted), ()))
    machine.handle(on.ResponseHeaders([(":status", b"200")], False))
    command, *_ = machine.handle(on.ResponseBody(json.dumps(answer).encode(), end))
    return machine, command


class TestExchange:
    def test_what_is_won_is_billed_and_confirmed_once_it_is_durable(self) -> None:
        machine, command = answered(batch())
        known = (Deferred("batch_1", COST),)
        assert command == do.Claim("ext-ada", known)
        assert machine.state is State.CLAIMING
        settle, record = machine.handle(on.Claimed(known))
        assert isinstance(settle, do.Settle)
        assert settle.actual == Quantities(1, 70, 30, 0)
        assert isinstance(record, do.Record)
        assert record.record.usage == COST
        assert record.record.provenance is Provenance.PROVIDER
        confirm, reply = machine.handle(on.Recorded())
        assert confirm == do.Confirm(known), "before the reply, at which the client may be gone"
        assert isinstance(reply, do.Reply)

    def test_an_answer_that_ends_in_trailers_is_no_way_around_it(self) -> None:
        machine, _ = answered(batch(), end=False)
        assert machine.handle(on.Trailers(of_response=True)) == (
            do.Claim("ext-ada", (Deferred("batch_1", COST),)),
        )

    def test_what_is_billed_already_or_by_another_costs_a_request(self) -> None:
        machine, _ = answered(batch())
        _, record = machine.handle(on.Claimed(()))
        assert isinstance(record, do.Record)
        assert (record.record.requests, record.record.usage) == (1, TokenUsage())
        assert len(machine.handle(on.Recorded())) == 1

    def test_several_are_summed(self) -> None:
        machine, command = answered({"data": [batch("a"), batch("b")]})
        assert isinstance(command, do.Claim)
        _, record = machine.handle(on.Claimed(command.deferrals))
        assert isinstance(record, do.Record)
        assert record.record.usage == TokenUsage(140, 60)

    def test_a_client_that_leaves_meanwhile_is_billed_at_its_next_look(self) -> None:
        machine, _ = answered(batch())
        _, record = machine.handle(on.Disconnected())
        assert isinstance(record, do.Record)
        assert record.record.usage == TokenUsage()
        assert record.record.outcome is Outcome.DISCONNECTED

    def test_a_creation_is_noted_before_the_client_knows_its_name(self) -> None:
        _, command = answered(batch(status="validating"), method=b"POST")
        assert command == do.Claim("ext-ada", (Deferred("batch_1"),))


class Book:
    """Owners by name; fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.owners: dict[str, str] = {}
        self.failures = failures

    def _try(self) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("gone")

    async def register(self, name: str, owner: str) -> None:
        self._try()
        self.owners[name] = owner

    async def claim(self, name: str, owner: str) -> bool:
        self._try()
        return self.owners.get(name) == owner

    async def confirm(self, name: str) -> None:
        self._try()
        self.owners.pop(name, None)


class TestClaims:
    @pytest.fixture(autouse=True)
    def _no_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(claims, "_WAITS_S", (0.0, 0.0))

    async def test_from_creation_to_bill(self) -> None:
        book, background = Book(), Background()
        done = Claims(book, emit=lambda _: pytest.fail("a fault"), background=background)
        assert await done.claim("x", "ada", (Deferred("b"),)) == ()
        cost = (Deferred("b", COST), Deferred("other", COST))
        assert await done.claim("x", "eve", cost) == ()
        assert await done.claim("x", "ada", cost) == cost[:1]
        done.confirm("x", cost[:1])
        await background.join(5)
        assert await done.claim("x", "ada", cost) == ()

    async def test_a_creation_is_noted_late_rather_than_never(self) -> None:
        book, background, faults = Book(failures=2), Background(), list[object]()
        done = Claims(book, emit=faults.append, background=background)
        assert await done.claim("x", "ada", (Deferred("b"),)) == ()
        await background.join(5)
        assert book.owners == {"b": "ada"}
        assert [type(fault) for fault in faults] == [InternalFault, InternalFault]

    async def test_what_can_not_be_claimed_now_is_left_for_later(self) -> None:
        book = Book(failures=1)
        book.owners["b"] = "ada"
        faults: list[object] = []
        done = Claims(book, emit=faults.append, background=Background())
        assert await done.claim("x", "ada", (Deferred("b", COST),)) == ()
        assert len(faults) == 1
        assert await done.claim("x", "ada", (Deferred("b", COST),)) == (Deferred("b", COST),)

    async def test_without_a_book_nobody_owes(self) -> None:
        done = Claims(None, emit=lambda _: None, background=Background())
        assert await done.claim("x", "ada", (Deferred("b", COST),)) == ()
        done.confirm("x", (Deferred("b", COST),))
        await asyncio.sleep(0)
