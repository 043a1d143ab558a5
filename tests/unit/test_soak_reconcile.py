"""The soak's arithmetic: it balances, and whatever is taken away, added or changed is found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.demo.billing import Amounts
from sentinel_extproc.usage.record import Outcome, Provenance
from tests.faults.reconcile import Fault, Item, Recorded, Report, Served, reconcile

EXACT = Provenance.PROVIDER, Outcome.COMPLETED
PARTIAL = Provenance.COUNTED, Outcome.DISCONNECTED
UNKNOWN = Provenance.ESTIMATED, "unknown"


@dataclass
class Books:
    served: list[Served] = field(default_factory=list)
    recorded: list[Recorded] = field(default_factory=list)
    billed: list[Item] = field(default_factory=list)
    held: list[Item] = field(default_factory=list)

    def add(
        self,
        name: str,
        user: str = "ada",
        tokens: int = 7,
        how: tuple[str, str] = EXACT,
        *,
        seen: int | None = None,
        dead: bool = False,
    ) -> None:
        amounts = Amounts(1, 3, tokens)
        own = replace(amounts, output_tokens=tokens if seen is None else seen)
        if how == UNKNOWN:
            own = Amounts()
        else:
            (self.held if dead else self.billed).append(Item(f"key-{name}", user, own))
        self.served.append(Served(name, user, amounts))
        self.recorded.append(Recorded(name, user, own, *how))

    def check(self, *, ambiguous: int | None = None) -> Report:
        return reconcile(self.served, self.recorded, self.billed, self.held, ambiguous=ambiguous)

    def faults(self, *, ambiguous: int | None = None) -> set[Fault]:
        return {finding.fault for finding in self.check(ambiguous=ambiguous).findings}


@pytest.fixture
def books() -> Books:
    made = Books()
    made.add("r1", tokens=11)
    made.add("r2", tokens=13, user="bo")
    made.add("r3", tokens=17, how=PARTIAL, seen=5)
    made.add("r4", tokens=19, how=UNKNOWN)
    made.add("r5", tokens=23, user="bo", dead=True)
    return made


def test_it_balances(books: Books) -> None:
    report = books.check()
    assert report.findings == []
    ada, bo = report.accounts["ada"], report.accounts["bo"]
    assert ada.served == Amounts(3, 9, 47)
    assert (ada.billed, ada.unknown) == (Amounts(2, 6, 16), Amounts(1, 3, 19))
    assert ada.unseen == Amounts(0, 0, 12)
    assert (bo.billed, bo.held) == (Amounts(1, 3, 13), Amounts(1, 3, 23))
    assert report.fates == {"exact": 3, "partial": 1, "unknown": 1}


@pytest.mark.parametrize("name", ["r1", "r2", "r3", "r4", "r5"])
def test_a_removed_record_is_found(books: Books, name: str) -> None:
    books.recorded = [record for record in books.recorded if record.request_id != name]
    assert Fault.LOST in books.faults()


@pytest.mark.parametrize("name", ["r1", "r2", "r3", "r4", "r5"])
def test_a_doubled_record_is_found(books: Books, name: str) -> None:
    books.recorded += [record for record in books.recorded if record.request_id == name]
    assert Fault.RECORDED_TWICE in books.faults()


@pytest.mark.parametrize("part", ["billed", "held"])
def test_a_removed_item_is_found(books: Books, part: str) -> None:
    getattr(books, part).pop()
    assert books.faults() == {Fault.NOT_BALANCED}


def test_an_item_billed_under_two_keys_is_found(books: Books) -> None:
    books.billed.append(replace(books.billed[0], key="another"))
    assert books.faults() == {Fault.NOT_BALANCED}


def test_an_item_billed_to_somebody_else_is_found(books: Books) -> None:
    books.billed[0] = replace(books.billed[0], user="bo")
    finding_users = {finding.about for finding in books.check().findings}
    assert finding_users == {"ada", "bo"}


@given(
    which=st.integers(0, 4),
    change=st.tuples(*[st.integers(-3, 3)] * 3).filter(any),
)
def test_a_changed_amount_is_found(which: int, change: tuple[int, int, int]) -> None:
    books = Books()
    for number in range(5):
        books.add(f"r{number}", tokens=10 + number, dead=number == 4)
    items = books.billed + books.held
    item = items[which]
    items[which] = replace(item, amounts=item.amounts + Amounts(*change))
    books.billed, books.held = items[:4], items[4:]
    assert books.faults() == {Fault.NOT_BALANCED}


@pytest.mark.parametrize("how", [EXACT, PARTIAL])
@pytest.mark.parametrize("change", [Amounts(1), Amounts(0, 1), Amounts(0, -1), Amounts(0, 0, 1)])
def test_a_record_that_says_too_much_is_found_though_it_is_billed_so(
    how: tuple[str, str], change: Amounts
) -> None:
    books = Books()
    books.add("r1", how=how)
    wrong = books.billed[0].amounts + change
    books.billed[0] = replace(books.billed[0], amounts=wrong)
    books.recorded[0] = replace(books.recorded[0], amounts=wrong)
    assert Fault.WRONG_AMOUNT in books.faults()


def test_less_than_served_is_right_only_where_nobody_saw_the_end(books: Books) -> None:
    books.recorded[2] = replace(books.recorded[2], outcome=Outcome.COMPLETED)
    assert Fault.WRONG_AMOUNT in books.faults()


def test_unknown_bills_nothing(books: Books) -> None:
    books.recorded[3] = replace(books.recorded[3], amounts=Amounts(1, 3, 19))
    assert Fault.WRONG_AMOUNT in books.faults()


def test_what_the_client_saw_the_end_of_is_never_unknown(books: Books) -> None:
    for number, fault in ((0, set()), (2, set()), (3, {Fault.NOT_DURABLE})):
        seen = Books(list(books.served), books.recorded, books.billed, books.held)
        seen.served[number] = replace(seen.served[number], seen=True)
        assert seen.faults() == fault


def test_another_user_s_record_is_found(books: Books) -> None:
    books.recorded[0] = replace(books.recorded[0], user="bo")
    assert Fault.WRONG_USER in books.faults()


@pytest.mark.parametrize(
    ("how", "fault"), [(EXACT, {Fault.NOT_SERVED}), (PARTIAL, set()), (UNKNOWN, set())]
)
def test_recorded_but_never_served(books: Books, how: tuple[str, str], fault: set[Fault]) -> None:
    books.add("r6", how=how, seen=0)
    books.served.pop()
    assert books.faults() == fault


def test_billed_twice_under_one_key(books: Books) -> None:
    books.billed.append(books.billed[0])
    assert books.faults() == {Fault.BILLED_TWICE}
    assert books.faults(ambiguous=0) == {Fault.BILLED_TWICE}
    report = books.check(ambiguous=1)
    assert report.findings == []
    assert report.accounts["ada"].doubled == books.billed[0].amounts


def test_a_repeated_key_must_be_the_same_item(books: Books) -> None:
    books.billed.append(replace(books.billed[0], amounts=Amounts(1, 3, 12)))
    assert books.faults(ambiguous=1) == {Fault.WRONG_AMOUNT}


def test_held_though_billed_is_billed(books: Books) -> None:
    books.held.append(books.billed[0])
    report = books.check()
    assert report.findings == []
    assert report.held_though_billed == 1
