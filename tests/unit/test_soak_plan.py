"""The soak's schedule: a seed says it all, and nothing is left to luck in the long run."""

from __future__ import annotations

from collections import Counter

from tests.faults.soak_plan import REDIS_FATES, ZION_FAULTS, KillAt, RedisFate, cycles


def test_a_seed_says_it_all() -> None:
    assert cycles(7, 30) == cycles(7, 30)
    assert cycles(7, 30) != cycles(8, 30)
    assert cycles(7, 30)[:20] == cycles(7, 20)


def test_every_fate_comes_as_often_as_any_other() -> None:
    count = len(KillAt) * len(ZION_FAULTS) * len(REDIS_FATES)
    made = cycles(1, count)
    assert set(Counter(cycle.kill_at for cycle in made).values()) == {count // len(KillAt)}
    faults = Counter(cycle.zion.kind for cycle in made)
    assert faults == dict.fromkeys(ZION_FAULTS, count // len(ZION_FAULTS))
    assert set(Counter(cycle.redis for cycle in made)) == set(RedisFate)
