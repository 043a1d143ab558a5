"""What the live page shows of the recent past: right, bounded, forgetting."""

from __future__ import annotations

import random
from collections import Counter

from sentinel_extproc.telemetry.facts import (
    ExchangeFinished,
    ExchangeRefused,
    InternalFault,
    RecordNotStored,
)
from sentinel_extproc.telemetry.live import (
    MAX_NAME_CHARS,
    SAMPLES,
    STEP_S,
    Heavy,
    HeavyHitters,
    Live,
)
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord


class Clock:
    def __init__(self) -> None:
        self.now = 10_000.0

    def __call__(self) -> float:
        return self.now


def finished(
    user: str = "ada", model: str = "gpt-4o", *, given: int = 10, made: int = 5
) -> ExchangeFinished:
    record = UsageRecord(
        id="0190",
        occurred_at_ms=1,
        external_id=user,
        email="",
        endpoint="chat.completions",
        model_requested=model,
        model_served=None,
        requests=1,
        usage=TokenUsage(given, made),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )
    return ExchangeFinished(record, 0)


def refused(code: str = "rate_limit_exceeded") -> ExchangeRefused:
    return ExchangeRefused("0190", 429, code, "chat.completions", "ada")


def test_samples_are_of_their_time_and_are_forgotten() -> None:
    clock = Clock()
    live = Live(clock)
    live.emit(finished())
    live.emit(refused())
    clock.now += STEP_S
    live.emit(finished(given=100, made=7))
    samples = live.samples()
    assert len(samples) == SAMPLES
    last, before = samples[-1], samples[-2]
    assert (last.admitted, last.refused, last.input_tokens, last.output_tokens) == (1, 0, 100, 7)
    assert (before.admitted, before.refused, before.input_tokens, before.output_tokens) == (
        (1, 1, 10, 5)
    )
    assert not any(sample.admitted or sample.refused for sample in samples[:-2])
    clock.now += STEP_S * (SAMPLES - 2)
    assert [sample.input_tokens for sample in live.samples()[:2]] == [10, 100]
    clock.now += STEP_S
    assert live.samples()[0].input_tokens == 100
    clock.now += STEP_S * SAMPLES * 3
    assert sum(sample.admitted for sample in live.samples()) == 0


def test_who_is_on_top() -> None:
    clock = Clock()
    live = Live(clock)
    for _ in range(3):
        live.emit(finished("ada", "small", given=10, made=0))
    live.emit(finished("bob", "large", given=1_000, made=0))
    live.emit(refused("insufficient_quota"))
    assert [(one.name, one.weight, one.count) for one in live.users(5)] == [
        ("bob", 1001, 1),
        ("ada", 33, 3),
    ]
    assert [one.name for one in live.models(1)] == ["large"]
    assert [(one.name, one.count) for one in live.reasons(5)] == [("insufficient_quota", 1)]
    clock.now += 20 * 60
    assert live.users(5) == live.models(5) == live.reasons(5) == []
    live.emit(finished("eve"))
    assert [one.name for one in live.users(5)] == ["eve"]


def test_the_past_ten_minutes_are_all_there() -> None:
    clock = Clock()
    live = Live(clock)
    for _ in range(10):
        live.emit(finished("ada", given=9, made=0))
        clock.now += 60
    assert [(one.name, one.count) for one in live.users(1)] == [("ada", 10)]


def test_heavy_names_are_kept_whatever_the_crowd() -> None:
    random.seed(7)
    sketch, true = HeavyHitters(keep=50), Counter[str]()
    names = [f"crowd-{n}" for n in range(20_000)] + ["heavy-1"] * 2_000 + ["heavy-2"] * 1_500
    random.shuffle(names)
    for name in names:
        sketch.add(name, 3)
        true[name] += 3
        assert len(sketch) <= 100
    held = {one[0]: Heavy(*one) for one in sketch.held()}
    for name, weight in true.items():
        if weight > true.total() / 50:
            assert name in held
    for one in held.values():
        assert one.weight - one.excess <= true[one.name] <= one.weight
        assert one.count <= true[one.name] // 3


def test_long_names_take_no_room() -> None:
    live = Live(Clock())
    live.emit(finished("x" * 100_000, "y" * 100_000))
    assert len(live.users(1)[0].name) == len(live.models(1)[0].name) == MAX_NAME_CHARS


def test_faults_are_counted() -> None:
    live = Live(Clock())
    live.emit(RecordNotStored(finished().record, "disk"))
    live.emit(InternalFault("0190", "exchange", ValueError(), admitted=True))
    assert (live.not_stored, live.faults) == (1, 1)
