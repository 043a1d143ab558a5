"""Outages are told once when they begin and once when they are over."""

from __future__ import annotations

import asyncio
import logging

import pytest

from sentinel_extproc.telemetry.outages import Change, Dependency, OutageLog, Outages


def test_each_change_is_told_once_with_its_beginning() -> None:
    outages = Outages()
    looks = [
        ({"a": False, "b": False}, []),
        ({"a": True, "b": False}, [Change("a", 101.0)]),
        ({"a": True, "b": True}, [Change("b", 102.0)]),
        ({"a": True, "b": True}, []),
        ({"a": False, "b": True}, [Change("a", 101.0, 3.0)]),
        ({"a": False, "b": False}, [Change("b", 102.0, 3.0)]),
        ({"a": True, "b": False}, [Change("a", 106.0)]),
    ]
    for number, (down, changes) in enumerate(looks):
        told = outages.look(down, wall_s=100.0 + number, steady_s=5.0 + number)
        assert told == changes, number


def test_a_wall_clock_that_is_set_back_makes_no_negative_outage() -> None:
    outages = Outages()
    outages.look({"a": True}, wall_s=100.0, steady_s=5.0)
    assert outages.look({"a": False}, wall_s=40.0, steady_s=6.5) == [Change("a", 100.0, 1.5)]


def test_the_log_says_since_when_and_what_is_done_meanwhile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "sentinel.dependencies")
    states = iter((False, True, True, False, False))
    watch = OutageLog({"zion": Dependency(lambda: next(states), "it waits")})
    for _ in range(5):
        watch.look()
    lost, regained = [vars(record) for record in caplog.records]
    assert (lost["message"], lost["dependency"], lost["meanwhile"]) == (
        "dependency_lost",
        "zion",
        "it waits",
    )
    assert (regained["message"], regained["since"]) == ("dependency_regained", lost["since"])
    assert regained["after_s"] >= 0


async def test_the_task_looks_and_ends() -> None:
    looked = asyncio.Event()

    def down() -> bool:
        looked.set()
        return False

    watch = OutageLog({"zion": Dependency(down, "")}, every_s=0.001)
    watch.start()
    await asyncio.wait_for(looked.wait(), 30)
    await watch.aclose()
    await watch.aclose()
