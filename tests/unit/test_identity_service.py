"""The authenticator over a scripted source and a clock that the test moves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sentinel_extproc.errors import Forbidden, SentinelError, Unauthenticated, Unavailable
from sentinel_extproc.identity.gate import Gate
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.refreshing import SourceBusy
from sentinel_extproc.identity.service import CachedAuthenticator
from sentinel_extproc.identity.shared import SharedEntry
from sentinel_extproc.limits.model import Epoch

WALL = 1_767_225_600.0

ALICE = Principal(external_id="ext-a", user_id="a", email="a@example.org")


def unavailable() -> Unavailable:
    return Unavailable("down", code="identity_unavailable")


@dataclass
class Source:
    """Answers ``answer``, once ``gate`` is open."""

    answer: Principal | Callable[[], SentinelError] = ALICE
    calls: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    async def identify(self, token: str) -> Principal:
        self.calls.append(token)
        self.entered.set()
        answer = self.answer
        await self.gate.wait()
        if isinstance(answer, Principal):
            return answer
        raise answer()


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return WALL + self.now


@dataclass
class Bench:
    source: Source
    clock: Clock
    service: CachedAuthenticator

    async def settled(self) -> None:
        """Wait until no look-up runs."""
        async with asyncio.timeout(5):
            while self.service._known.loading:  # noqa: ASYNC110
                await asyncio.sleep(0)


def make(**options: Any) -> Bench:
    source, clock = Source(), Clock()
    source.gate.set()
    service = CachedAuthenticator(
        source, **{"clock": clock, "wall_clock": clock.wall, "jitter": lambda: 1.0, **options}
    )
    return Bench(source, clock, service)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = make()
    yield made
    await made.service.aclose()


def jwt(exp: float) -> str:
    parts = [{"alg": "RS256"}, {"exp": exp}]
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
    return ".".join(text.rstrip("=") for text in texts) + ".c2ln"


async def test_fresh_answers_come_from_the_cache(bench: Bench) -> None:
    assert await bench.service.authenticate("t") == ALICE
    bench.clock.now = 59.9
    assert await bench.service.authenticate("t") == ALICE
    assert bench.source.calls == ["t"]
    assert bench.service.counters.fresh == 1


async def test_while_revocations_cannot_be_heard_stale_answers_are_checked_first() -> None:
    heard = True
    bench = make(may_serve_stale=lambda: heard)
    await bench.service.authenticate("t")
    heard = False
    bench.clock.now = 61
    bench.source.gate.clear()
    waiting = asyncio.create_task(bench.service.authenticate("t"))
    while len(bench.source.calls) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert not waiting.done(), "the source has not answered yet"
    bench.source.gate.set()
    assert await waiting == ALICE
    assert bench.service.counters.stale == 0
    await bench.service.aclose()


async def test_stale_answers_are_checked_behind_the_request(bench: Bench) -> None:
    await bench.service.authenticate("t")
    bench.clock.now = 61
    bench.source.gate.clear()
    for _ in range(5):
        assert await bench.service.authenticate("t") == ALICE
    bench.source.gate.set()
    await bench.settled()
    assert len(bench.source.calls) == 2
    bench.clock.now = 120
    await bench.service.authenticate("t")
    assert len(bench.source.calls) == 2
    assert bench.service.counters.stale == 5


async def test_a_check_behind_that_says_invalid_holds_from_then_on(bench: Bench) -> None:
    await bench.service.authenticate("t")
    bench.clock.now = 61
    bench.source.answer = lambda: Unauthenticated("The API key is not valid.")
    assert await bench.service.authenticate("t") == ALICE
    await bench.settled()
    with pytest.raises(Unauthenticated):
        await bench.service.authenticate("t")
    assert len(bench.source.calls) == 2


async def test_a_thousand_requests_with_a_cold_token_are_one_call(bench: Bench) -> None:
    bench.source.gate.clear()
    waiting = [asyncio.create_task(bench.service.authenticate("t")) for _ in range(1000)]
    await bench.source.entered.wait()
    bench.source.gate.set()
    assert await asyncio.gather(*waiting) == [ALICE] * 1000
    assert bench.source.calls == ["t"]


async def test_a_cancelled_leader_does_not_fail_its_followers(bench: Bench) -> None:
    bench.source.gate.clear()
    leader = asyncio.create_task(bench.service.authenticate("t"))
    await bench.source.entered.wait()
    followers = [asyncio.create_task(bench.service.authenticate("t")) for _ in range(3)]
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    bench.source.gate.set()
    assert await asyncio.gather(*followers) == [ALICE] * 3
    assert bench.source.calls == ["t"]


async def test_the_answer_is_kept_when_everybody_has_left(bench: Bench) -> None:
    bench.source.gate.clear()
    alone = asyncio.create_task(bench.service.authenticate("t"))
    await bench.source.entered.wait()
    alone.cancel()
    await asyncio.gather(alone, return_exceptions=True)
    bench.source.gate.set()
    await bench.settled()
    await bench.service.authenticate("t")
    assert bench.source.calls == ["t"]


async def test_every_waiter_gets_an_error_of_its_own(bench: Bench) -> None:
    bench.source.gate.clear()
    bench.source.answer = lambda: Unauthenticated("The API key is not valid.")
    waiting = [asyncio.create_task(bench.service.authenticate("t")) for _ in range(3)]
    await bench.source.entered.wait()
    bench.source.gate.set()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, Unauthenticated) for error in errors)
    assert len(set(map(id, errors))) == 3


async def test_invalid_tokens_are_remembered_for_ten_seconds(bench: Bench) -> None:
    bench.source.answer = lambda: Unauthenticated("The API key is not valid.")
    for now in (0, 5, 9.9):
        bench.clock.now = now
        with pytest.raises(Unauthenticated) as caught:
            await bench.service.authenticate("t")
        assert caught.value.headers()["www-authenticate"].startswith("Bearer")
    assert len(bench.source.calls) == 1
    bench.clock.now = 10
    bench.source.answer = ALICE
    assert await bench.service.authenticate("t") == ALICE


@pytest.mark.parametrize(
    "error", [unavailable, lambda: Forbidden("no external id", code="external_id_missing")]
)
async def test_only_a_real_401_is_remembered(
    bench: Bench, error: Callable[[], SentinelError]
) -> None:
    bench.source.answer = error
    for _ in range(3):
        with pytest.raises(type(error())):
            await bench.service.authenticate("t")
    assert len(bench.source.calls) == 3


async def test_known_users_live_on_while_the_source_is_down(bench: Bench) -> None:
    await bench.service.authenticate("t")
    bench.source.answer = unavailable
    for now in range(1, 1800, 7):
        bench.clock.now = float(now)
        assert await bench.service.authenticate("t") == ALICE
    await bench.settled()
    with pytest.raises(Unavailable):
        await bench.service.authenticate("unknown")
    bench.clock.now = 1800
    with pytest.raises(Unavailable):
        await bench.service.authenticate("t")


async def test_in_the_last_period_the_source_is_asked_first(bench: Bench) -> None:
    await bench.service.authenticate("t")
    bench.clock.now = 301
    bench.source.answer = Principal("ext-b", "b", "b@example.org")
    assert (await bench.service.authenticate("t")).external_id == "ext-b"
    bench.clock.now = 700
    bench.source.answer = lambda: Unauthenticated("The API key is not valid.")
    with pytest.raises(Unauthenticated):
        await bench.service.authenticate("t")


async def test_a_failed_check_is_not_repeated_at_every_request(bench: Bench) -> None:
    await bench.service.authenticate("t")
    bench.clock.now = 301
    bench.source.answer = unavailable
    for _ in range(10):
        await bench.service.authenticate("t")
    assert len(bench.source.calls) == 2
    bench.clock.now = 302.1
    await bench.service.authenticate("t")
    assert len(bench.source.calls) == 3
    assert bench.service.counters.stale_on_error == 11


async def test_a_busy_source_is_left_alone_for_as_long_as_it_asked(bench: Bench) -> None:
    bench.source.answer = lambda: SourceBusy("busy", retry_after_s=20)
    for now, wait in ((0, 20), (5, 15), (19, 1)):
        bench.clock.now = now
        with pytest.raises(Unavailable) as caught:
            await bench.service.authenticate("t")
        assert caught.value.retry_after_s == wait
    assert len(bench.source.calls) == 1
    bench.clock.now = 20
    bench.source.answer = ALICE
    assert await bench.service.authenticate("t") == ALICE


async def test_nothing_is_used_past_the_tokens_own_expiry(bench: Bench) -> None:
    token = jwt(WALL + 10)
    await bench.service.authenticate(token)
    bench.clock.now = 9.9
    await bench.service.authenticate(token)
    assert len(bench.source.calls) == 1
    bench.clock.now = 10
    bench.source.answer = unavailable
    with pytest.raises(Unavailable):
        await bench.service.authenticate(token)


async def test_a_token_long_expired_is_refused_unasked(bench: Bench) -> None:
    with pytest.raises(Unauthenticated, match="expired"):
        await bench.service.authenticate(jwt(WALL - 61))
    assert bench.source.calls == []


async def test_an_expiry_far_away_lengthens_nothing(bench: Bench) -> None:
    token = jwt(WALL + 10_000_000)
    await bench.service.authenticate(token)
    bench.clock.now = 1800
    bench.source.answer = unavailable
    with pytest.raises(Unavailable):
        await bench.service.authenticate(token)


async def test_jwts_have_a_period_of_their_own() -> None:
    bench = make(fresh_s=60, jwt_fresh_s=10)
    token = jwt(WALL + 1000)
    await bench.service.authenticate(token)
    await bench.service.authenticate("opaque")
    bench.clock.now = 11
    await bench.service.authenticate(token)
    await bench.service.authenticate("opaque")
    await bench.settled()
    assert bench.source.calls == [token, "opaque", token]


async def test_caches_are_bounded_and_bad_tokens_do_not_displace_good_ones() -> None:
    bench = make(max_entries=10, max_denials=10, gate=Gate(burst=1000))
    await bench.service.authenticate("good")
    bench.source.answer = lambda: Unauthenticated("The API key is not valid.")
    for number in range(200):
        with pytest.raises(Unauthenticated):
            await bench.service.authenticate(f"bad-{number}")
    assert len(bench.service._denied) == 10
    assert await bench.service.authenticate("good") == ALICE


async def test_too_many_unknown_tokens_at_once_get_a_503() -> None:
    bench = make(max_lookups=5)
    await bench.service.authenticate("known")
    bench.source.gate.clear()
    bench.source.entered.clear()
    waiting = [asyncio.create_task(bench.service.authenticate(f"t{n}")) for n in range(8)]
    await bench.source.entered.wait()
    bench.clock.now = 61
    assert await bench.service.authenticate("known") == ALICE
    bench.source.gate.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert answers.count(ALICE) == 5
    assert sum(isinstance(error, Unavailable) for error in answers) == 3


async def test_a_flood_of_invented_tokens_barely_reaches_the_source() -> None:
    clock = Clock()
    gate = Gate(rate_per_s=40, burst=40, max_wait_s=0, clock=clock)
    bench = make(clock=clock, wall_clock=clock.wall, gate=gate)
    await bench.service.authenticate("known")
    bench.source.answer = lambda: Unauthenticated("The API key is not valid.")
    refused = 0
    for tick in range(5000):
        clock.now = tick / 1000
        for number in range(10):  # 10,000 a second
            try:
                await bench.service.authenticate(f"bad-{tick}-{number}")
            except Unavailable:
                refused += 1
            except Unauthenticated:
                pass
        assert await bench.service.authenticate("known") == ALICE
    calls = len(bench.source.calls) - 1
    assert 200 <= calls <= 240, "at most 50 a second"
    assert refused == 50_000 - calls
    assert len(bench.service._denied) <= calls
    assert len(bench.service._known) == 1


async def test_real_tokens_are_not_held_back_by_the_gate() -> None:
    bench = make(gate=Gate(rate_per_s=1, burst=5, max_wait_s=1, clock=lambda: 0.0))
    waiting = [asyncio.create_task(bench.service.authenticate(f"t{n}")) for n in range(200)]
    assert await asyncio.gather(*waiting) == [ALICE] * 200
    assert len(bench.source.calls) == 200


async def test_a_flood_does_not_keep_known_tokens_from_being_checked() -> None:
    bench = make(max_lookups=5)
    await bench.service.authenticate("known")
    bench.source.gate.clear()
    flood = [asyncio.create_task(bench.service.authenticate(f"t{n}")) for n in range(20)]
    await asyncio.sleep(0)
    bench.clock.now = 301
    known = asyncio.create_task(bench.service.authenticate("known"))
    await asyncio.sleep(0)
    bench.source.gate.set()
    assert await known == ALICE
    await asyncio.gather(*flood, return_exceptions=True)
    assert bench.source.calls.count("known") == 2


async def test_forgetting_a_token_a_user_and_everything(bench: Bench) -> None:
    service = bench.service
    forget: list[Callable[[], None]] = [
        lambda: service.forget_token(hashlib.sha256(b"t").digest()),
        lambda: service.forget_user("ext-a"),
        service.forget_all,
    ]
    for times, act in enumerate(forget, start=1):
        await service.authenticate("t")
        assert len(bench.source.calls) == times
        act()
    service.forget_user("ext-z")
    await service.authenticate("t")
    await service.authenticate("t")
    assert len(bench.source.calls) == 4


async def test_an_answer_from_before_a_revocation_is_neither_kept_nor_joined(bench: Bench) -> None:
    bench.source.gate.clear()
    early = asyncio.create_task(bench.service.authenticate("t"))
    await bench.source.entered.wait()
    bench.service.forget_user("ext-a")
    bench.source.answer = lambda: Unauthenticated("The API key is not valid.")
    late = asyncio.create_task(bench.service.authenticate("t"))
    await asyncio.sleep(0)
    bench.source.gate.set()
    await early
    with pytest.raises(Unauthenticated):
        await late
    with pytest.raises(Unauthenticated):
        await bench.service.authenticate("t")


async def test_a_token_over_8_kib_is_refused_unasked(bench: Bench) -> None:
    with pytest.raises(Unauthenticated, match="8192"):
        await bench.service.authenticate("x" * 8193)
    assert bench.source.calls == []


async def test_tokens_are_not_kept(bench: Bench) -> None:
    await bench.service.authenticate("secret-token")
    assert list(bench.service._known._entries._entries) == [
        hashlib.sha256(b"secret-token").digest()
    ]


@dataclass
class Epochs:
    """Revocation epochs of every user and token alike."""

    seen: dict[str, int] = field(default_factory=lambda: {"all": 0, "user": 0})
    before: Callable[[], None] = lambda: None

    readable: bool = True

    async def epochs(self, external_id: str, *token_sha256: bytes) -> tuple[Epoch, ...]:
        self.before()
        if not self.readable:
            raise unavailable()
        return tuple(Epoch(name, seen) for name, seen in self.seen.items())

    def lowest(self, *token_sha256: bytes) -> tuple[Epoch, ...]:
        return tuple(Epoch(name, 0) for name in self.seen)


@dataclass
class Denials:
    """A list that can be away."""

    listed: set[bytes] = field(default_factory=set)
    readable: bool = True

    def mirrored(self, token_sha256: bytes) -> bool:
        return False

    async def denied(self, token_sha256: bytes) -> bool | None:
        return token_sha256 in self.listed if self.readable else None

    def mirror(self, token_sha256: bytes) -> None:
        self.listed.add(token_sha256)

    async def deny(self, token_sha256: bytes) -> None:
        self.listed.add(token_sha256)


async def test_after_a_revocation_nothing_is_accepted_before_the_list_was_read() -> None:
    epochs, denials = Epochs(), Denials()
    bench = make(epochs=epochs, denials=denials)
    await bench.service.authenticate("t")
    epochs.seen["user"] = 7
    denials.readable = False
    for _ in range(2):
        with pytest.raises(Unavailable):
            await bench.service.recheck("t")
    assert bench.service.known_tokens == 0
    with pytest.raises(Unavailable):  # the epoch alone says that something was revoked
        await bench.service.authenticate("t")
    denials.readable = True
    assert (await bench.service.recheck("t")).epochs[1] == Epoch("user", 7)


async def test_without_the_list_and_without_a_revocation_the_source_decides() -> None:
    bench = make(epochs=Epochs(), denials=Denials(readable=False))
    assert (await bench.service.authenticate("t")).external_id == "ext-a"


async def test_unread_epochs_are_the_lowest_and_a_recheck_is_certain_or_a_503() -> None:
    shared = Shared()
    epochs = Epochs({"all": 0, "user": 7}, readable=False)
    bench = make(epochs=epochs, shared=shared)
    principal = await bench.service.authenticate("t")
    assert principal.epochs == (Epoch("all", 0), Epoch("user", 0))  # the reservation refuses it
    with pytest.raises(Unavailable):
        await bench.service.recheck("t")
    assert bench.service.known_tokens == 0
    assert shared.entries == {}
    epochs.readable = True
    assert (await bench.service.recheck("t")).epochs[1] == Epoch("user", 7)


async def test_a_check_without_epochs_keeps_those_known_before() -> None:
    epochs = Epochs({"all": 0, "user": 7})
    bench = make(epochs=epochs)
    await bench.service.authenticate("t")
    epochs.readable = False
    bench.clock.now = 301
    assert (await bench.service.authenticate("t")).epochs[1] == Epoch("user", 7)


async def test_a_jwt_is_refused_whatever_its_signature_is_spelt_like() -> None:
    denials = Denials()
    bench = make(denials=denials)
    token = jwt(WALL + 1000)
    signed = token.rpartition(".")[0]
    await bench.service.authenticate(token)
    denials.listed.add(digest(signed))
    for spelling in (f"{signed}.b3RoZXI", f"{token}=="):
        with pytest.raises(Unauthenticated) as caught:
            await bench.service.authenticate(spelling)
        assert caught.value.code == "token_revoked"
    assert bench.source.calls == [token]


async def test_a_jwt_is_accepted_by_its_whole_text_only(bench: Bench) -> None:
    token = jwt(WALL + 1000)
    await bench.service.authenticate(token)
    bench.source.answer = lambda: Unauthenticated("The API key is not valid.")
    forged = f"{token.rpartition('.')[0]}.Zm9yZ2Vk"
    with pytest.raises(Unauthenticated):
        await bench.service.authenticate(forged)
    assert bench.source.calls == [token, forged]
    assert await bench.service.authenticate(token) == ALICE


async def test_principals_carry_the_epochs_they_were_checked_at() -> None:
    epochs = Epochs()
    bench = make(epochs=epochs)
    principal = await bench.service.authenticate("t")
    assert principal.epochs == (Epoch("all", 0), Epoch("user", 0))
    assert bench.source.calls == ["t"]


async def test_an_answer_older_than_the_epochs_is_asked_for_again() -> None:
    epochs = Epochs()
    bench = make(epochs=epochs)

    def revoked_meanwhile() -> None:
        epochs.seen["user"] = 7
        bench.source.answer = lambda: Unauthenticated("The API key is not valid.")

    epochs.before = revoked_meanwhile
    with pytest.raises(Unauthenticated):
        await bench.service.authenticate("t")
    assert len(bench.source.calls) == 2


async def test_epochs_known_from_before_cost_no_second_question() -> None:
    epochs = Epochs({"all": 3, "user": 0})
    bench = make(epochs=epochs)
    await bench.service.authenticate("t")
    assert len(bench.source.calls) == 2
    for number in range(5):
        principal = await bench.service.authenticate(f"t{number}")
        assert principal.epochs[0] == Epoch("all", 3)
    assert len(bench.source.calls) == 7


async def test_recheck_passes_everything_cached() -> None:
    epochs = Epochs()
    bench = make(epochs=epochs)
    await bench.service.authenticate("t")
    epochs.seen["user"] = 7
    principal = await bench.service.recheck("t")
    assert principal.epochs[1] == Epoch("user", 7)
    bench.source.answer = unavailable
    with pytest.raises(Unavailable):  # stale answers end at a revocation
        await bench.service.recheck("t")


async def test_closing_ends_the_look_ups() -> None:
    bench = make()
    bench.source.gate.clear()
    waiting = asyncio.create_task(bench.service.authenticate("t"))
    await bench.source.entered.wait()
    await bench.service.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@dataclass
class Shared:
    """A second level that remembers, as another replica would see it."""

    entries: dict[bytes, SharedEntry] = field(default_factory=dict)
    lives: dict[bytes, float] = field(default_factory=dict)

    async def get(self, token_sha256: bytes) -> SharedEntry | None:
        return self.entries.get(token_sha256)

    async def put(self, token_sha256: bytes, entry: SharedEntry, ttl_s: float) -> None:
        self.entries[token_sha256] = entry
        self.lives[token_sha256] = ttl_s

    async def remove(self, token_sha256: bytes) -> None:
        self.entries.pop(token_sha256, None)


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def test_what_one_replica_learned_the_other_need_not_ask() -> None:
    shared = Shared()
    one, two = make(shared=shared), make(shared=shared)
    await one.service.authenticate("t")
    assert await two.service.authenticate("t") == ALICE
    assert two.source.calls == []
    assert shared.lives[digest("t")] == 1800


async def test_a_shared_answer_is_as_old_as_it_is() -> None:
    shared = Shared()
    one, two = make(shared=shared), make(shared=shared)
    await one.service.authenticate("t")
    two.clock.now = 100  # stale: used, and checked behind the request
    await two.service.authenticate("t")
    await two.settled()
    assert two.source.calls == []  # within the flight that read it
    await two.service.authenticate("t")
    await two.settled()
    assert two.source.calls == ["t"]


async def test_an_old_shared_answer_is_for_when_the_source_fails() -> None:
    shared = Shared()
    one, two = make(shared=shared), make(shared=shared)
    await one.service.authenticate("t")
    two.clock.now = 1000
    two.source.answer = unavailable
    assert await two.service.authenticate("t") == ALICE
    assert two.source.calls == ["t"]
    three = make(shared=shared)
    three.clock.now = 1800
    three.source.answer = unavailable
    with pytest.raises(Unavailable):
        await three.service.authenticate("t")


async def test_replicas_share_the_work_of_checking_again() -> None:
    shared = Shared()
    one, two = make(shared=shared), make(shared=shared)
    await one.service.authenticate("t")
    await two.service.authenticate("t")
    for bench in (one, two):
        bench.clock.now = 61
        await bench.service.authenticate("t")
        await bench.settled()
    assert one.source.calls == ["t", "t"]
    assert two.source.calls == []


@pytest.mark.parametrize(
    "error", [lambda: Unauthenticated("The API key is not valid."), lambda: Forbidden("no")]
)
async def test_a_denial_ends_the_shared_answer(error: Callable[[], SentinelError]) -> None:
    shared = Shared()
    bench = make(shared=shared)
    await bench.service.authenticate("t")
    bench.clock.now = 301
    bench.source.answer = error
    with pytest.raises(type(error())):
        await bench.service.authenticate("t")
    assert shared.entries == {}


async def test_a_shared_answer_from_before_a_revocation_is_not_used() -> None:
    shared, epochs = Shared(), Epochs()
    one, two = make(shared=shared, epochs=epochs), make(shared=shared, epochs=epochs)
    await one.service.authenticate("t")
    epochs.seen["user"] = 5
    two.source.answer = lambda: Unauthenticated("The API key is not valid.")
    with pytest.raises(Unauthenticated):
        await two.service.authenticate("t")


async def test_a_recheck_passes_the_shared_answer_too() -> None:
    shared = Shared()
    bench = make(shared=shared)
    await bench.service.authenticate("t")
    bench.source.answer = lambda: Unauthenticated("The API key is not valid.")
    with pytest.raises(Unauthenticated):
        await bench.service.recheck("t")


async def test_a_shared_answer_lives_no_longer_than_its_token() -> None:
    shared = Shared()
    token = jwt(WALL + 10)
    await make(shared=shared).service.authenticate(token)
    assert shared.lives[digest(token)] == 10
    late = make(shared=shared)
    late.clock.now = 10
    late.source.answer = unavailable
    with pytest.raises(Unavailable):
        await late.service.authenticate(token)
