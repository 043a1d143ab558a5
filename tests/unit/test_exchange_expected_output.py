"""What is expected of an answer without a cap, and what an exchange makes of it."""

from __future__ import annotations

import json
import sys

import pytest
from msgspec.structs import replace

from sentinel_extproc.endpoints.contract import Plan
from sentinel_extproc.endpoints.table import match
from sentinel_extproc.exchange.accounting import Bill, lesson
from sentinel_extproc.exchange.expected_output import (
    MODELS,
    MODELS_PER_USER,
    Basis,
    Expected,
    FixedOutput,
    LearnedOutput,
    Quantile,
)
from sentinel_extproc.exchange.intake import kind_of, output_to_reserve
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage

CHAT = "chat.completions gpt-4o"


def learner(**change: int) -> LearnedOutput:
    return LearnedOutput(**{"default": 1000, "least": 64, "most": 4096, "samples": 8} | change)


def teach(learned: LearnedOutput, user: str, tokens: int, times: int, kind: str = CHAT) -> None:
    for _ in range(times):
        learned.learn(user, kind, tokens)


class TestLearning:
    def test_the_default_holds_until_there_is_a_history(self) -> None:
        learned = learner()
        teach(learned, "ada", 200, 7)
        assert learned.expect("ada", CHAT) == Expected(1000, Basis.DEFAULT)
        teach(learned, "ada", 200, 1)
        assert learned.expect("ada", CHAT) == Expected(256, Basis.USER)

    def test_models_and_endpoints_are_learned_apart(self) -> None:
        learned = learner()
        teach(learned, "ada", 200, 8)
        assert learned.expect("ada", "responses gpt-4o").basis is Basis.DEFAULT

    def test_who_has_no_history_gets_what_newcomers_had(self) -> None:
        learned = learner()
        for user in "abcd":
            teach(learned, user, 200, 2)
        assert learned.expect("new", CHAT) == Expected(256, Basis.MODEL)

    def test_one_user_alone_teaches_nobody_else(self) -> None:
        learned = learner()
        teach(learned, "eve", 1_000_000, 10_000)
        assert learned.expect("eve", CHAT) == Expected(4096, Basis.USER)
        assert learned.expect("ada", CHAT) == Expected(1000, Basis.DEFAULT)

    def test_new_names_make_nobody_a_newcomer_again(self) -> None:
        learned = learner()
        for number in range(MODELS_PER_USER):
            learned.learn("eve", f"chat.completions m{number}", 9)
        teach(learned, "eve", 1_000_000, 100)
        assert learned.expect("eve", CHAT).basis is Basis.DEFAULT
        assert learned.expect("ada", CHAT).basis is Basis.DEFAULT

    def test_it_follows_when_habits_change(self) -> None:
        learned = learner()
        teach(learned, "ada", 3000, 500)
        assert learned.expect("ada", CHAT).tokens == 4096
        teach(learned, "ada", 100, 300)
        assert learned.expect("ada", CHAT).tokens == 128

    def test_one_odd_answer_moves_nothing(self) -> None:
        learned = learner()
        teach(learned, "ada", 100, 100)
        teach(learned, "ada", 4000, 1)
        assert learned.expect("ada", CHAT).tokens == 128

    def test_the_user_not_met_for_longest_is_forgotten(self) -> None:
        learned = learner(users=2)
        teach(learned, "ada", 200, 8)
        teach(learned, "bob", 200, 8)
        teach(learned, "ada", 200, 1)
        teach(learned, "cy", 200, 8)
        assert learned.expect("ada", CHAT).basis is Basis.USER
        assert learned.expect("bob", CHAT).basis is not Basis.USER

    def test_the_model_not_met_for_longest_is_forgotten(self) -> None:
        learned = learner()
        for user in "abcd":
            teach(learned, user, 200, 2)
        for number in range(MODELS):
            learned.learn(f"u{number}", f"chat.completions m{number}", 9)
        assert learned.expect("new", CHAT).basis is Basis.DEFAULT

    def test_a_history_is_small(self) -> None:
        quantile = Quantile()
        for value in range(10_000):
            quantile.add(value)
        parts = (quantile, *(getattr(quantile, name) for name in quantile.__slots__))
        assert sum(map(sys.getsizeof, parts)) < 400


class TestReserving:
    def plan(self, path: str, **request: object) -> Plan:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
        return match("POST", path).endpoint.plan(json.dumps(body | request).encode())

    @pytest.mark.parametrize(
        ("path", "request_", "tokens"),
        [
            ("/v1/chat/completions", {"n": 3}, 3 * 500),
            ("/v1/responses", {}, 500),
            ("/v1/new", {"n": 2}, 2 * 500),
        ],
    )
    def test_what_is_expected_is_reserved_for_every_choice(
        self, path: str, request_: dict[str, object], tokens: int
    ) -> None:
        plan = self.plan(path, **request_)
        assert output_to_reserve(plan, FixedOutput(500), "ada").tokens == tokens

    @pytest.mark.parametrize(
        ("path", "request_", "tokens"),
        [
            ("/v1/chat/completions", {"n": 3, "max_tokens": 7}, 21),
            ("/v1/chat/completions", {"max_tokens": 7, "max_completion_tokens": 9}, 9),
            ("/v1/responses", {"max_output_tokens": 16}, 16),
            ("/v1/new", {"n": 2, "max_tokens": 8}, 16),
            ("/v1/embeddings", {}, 0),
        ],
    )
    def test_a_cap_always_wins(self, path: str, request_: dict[str, object], tokens: int) -> None:
        plan = self.plan(path, **request_)
        learned = learner()
        teach(learned, "ada", 900, 20, kind_of(plan))
        assert output_to_reserve(plan, learned, "ada") == Expected(tokens, Basis.CAP)

    def test_a_session_starts_with_the_default(self) -> None:
        plan = Plan(endpoint="realtime", model="gpt-realtime", endless=True)
        learned = learner()
        teach(learned, "ada", 4000, 20, kind_of(plan))
        assert output_to_reserve(plan, learned, "ada") == Expected(1000, Basis.DEFAULT)


class TestLessons:
    PLAN = Plan(endpoint="chat.completions", model="gpt-4o", choices=2)
    BILL = Bill(TokenUsage(9, 31), Provenance.PROVIDER, Outcome.COMPLETED, None)

    def test_a_whole_answer_without_a_cap_teaches_what_one_choice_came_to(self) -> None:
        assert lesson(self.PLAN, self.BILL) == 16
        assert lesson(self.PLAN, replace(self.BILL, provenance=Provenance.COUNTED)) == 16

    @pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.COMPLETED])
    def test_what_might_have_become_longer_teaches_nothing(self, outcome: Outcome) -> None:
        assert lesson(self.PLAN, replace(self.BILL, outcome=outcome)) is None

    def test_nor_does_a_capped_an_estimated_or_an_endless_one(self) -> None:
        assert lesson(replace(self.PLAN, output_cap=100), self.BILL) is None
        assert lesson(self.PLAN, replace(self.BILL, provenance=Provenance.ESTIMATED)) is None
        assert lesson(replace(self.PLAN, endless=True), self.BILL) is None
