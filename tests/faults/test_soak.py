"""kill -9 at any moment, Zion failing, Redis restarting: no token is lost, none is billed twice.

``SOAK_CYCLES`` (20) says how long, ``SOAK_SEED`` (drawn, and printed) which;
``make soak`` runs 200.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tests.faults.outcome import Outcome as Found
from tests.faults.reconcile import Account
from tests.faults.soak_plan import cycles
from tests.faults.soak_run import Outcome, Soak

CYCLES = int(os.environ.get("SOAK_CYCLES", "20"))
SEED = int(os.environ.get("SOAK_SEED") or random.randrange(10**6))
WITHOUT_DEDUPLICATION = max(2, CYCLES // 5)

_COLUMNS = ("served", "unsent", "billed", "held", "unknown", "unseen", "doubled")


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Prints at once, as a soak takes a while."""

    def print_now(*things: object) -> None:
        with capsys.disabled():
            Console(width=110, highlight=False).print(*things, markup=False)

    return print_now


@pytest.mark.timeout(120 + 20 * CYCLES)
@pytest.mark.parametrize("deduplicates", [True, False], ids=["deduplicating", "not deduplicating"])
def test_every_token_is_accounted_for(
    deduplicates: bool, show: Callable[..., None], outcome: Found
) -> None:
    plan = cycles(SEED, CYCLES if deduplicates else WITHOUT_DEDUPLICATION)
    again = f"SOAK_SEED={SEED} SOAK_CYCLES={CYCLES}"
    with tempfile.TemporaryDirectory(prefix="sx-soak-") as folder:
        soak = Soak(Path(folder), SEED, deduplicates)
        if CYCLES > 20:
            soak.progress = show
        try:
            ended = soak.run(plan)
        except BaseException:
            show(f"\nsoak failed, again with {again}")
            raise
    kills = Counter(str(cycle.kill_at) for cycle in plan)
    show(f"\nsoak: {len(plan)} kills {dict(kills)}, {again}, {ended.took_s:.0f} s")
    show(*_tables(ended))
    report = ended.report
    outcome.tried = sum(report.fates.values())
    outcome.held = outcome.tried - len(report.findings)
    # Doubled by a Zion that doesn't know items again is what was told of as ambiguous.
    outcome.lost = len(report.findings) + (report.doubled_items if ended.ambiguous is None else 0)
    outcome.clients.update(ended.statuses)
    assert not report.findings, f"{again}: {report.findings[:10]}"
    # A soak in which nothing died under a request, or nothing passed, would prove nothing.
    assert report.fates["exact"] > 5 * len(plan)
    assert report.fates["unknown"] > 0
    if ended.ambiguous is None:
        assert report.doubled_items == 0
    else:
        assert report.doubled_items == ended.duplicates <= ended.ambiguous


def _tables(outcome: Outcome) -> tuple[Table | str, ...]:
    report = outcome.report
    table = Table("user", *_COLUMNS, title="requests / input / output tokens")
    total = Account()
    for user, account in sorted(report.accounts.items()):
        table.add_row(user, *_cells(account))
        for column in _COLUMNS:
            setattr(total, column, getattr(total, column) + getattr(account, column))
    table.add_section()
    table.add_row("all", *_cells(total))
    facts = (
        f"requests by fate {dict(report.fates)}; clients saw {dict(outcome.statuses)}; "
        f"items repeated to Zion {outcome.duplicates}"
        + ("; " if outcome.ambiguous is None else f", called ambiguous {outcome.ambiguous}; ")
        + f"all reported {outcome.settled_after_s:.1f} s after the last kill"
    )
    return table, facts


def _cells(account: Account) -> list[str]:
    return [" / ".join(map(str, astuple(getattr(account, column)))) for column in _COLUMNS]
