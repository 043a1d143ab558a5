"""The past against a policy: who would have been refused. Asks nobody.

Every request of the past is reserved and settled at the time when it was forwarded, with what it
used, in a store that is thrown away. So it is judged by the functions that judge live requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from sentinel_extproc.errors import SentinelError
from sentinel_extproc.limits.asking import ask
from sentinel_extproc.limits.claims import refusal, retaken
from sentinel_extproc.limits.cost import CelCost
from sentinel_extproc.limits.limit import Kind
from sentinel_extproc.limits.model import Quantities, ReserveRequest, Subject
from sentinel_extproc.limits.policy import Policy
from sentinel_extproc.limits.store import Decision
from sentinel_extproc.limits.store.memory import MemoryStore
from sentinel_extproc.policy_cli.timeline import Past, Timeline
from sentinel_extproc.usage_cli.columns import iso

CURRENT, PROPOSED = 0, 1

MAX_STATES = 2_000_000
"""Users times their limits that are kept at once, at some 300 bytes each."""

CHARACTERS_PER_TOKEN = 4
"""Of ordinary English text; the ledger has no characters."""

NOT_A_LIMIT = "(none: no cost can be computed)"

_SUBJECTS = 10_000


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger doesn't say of its requests.

    Attributes:
        paths: the usual path of each endpoint.
        plans: by external id.
        default_plan: of everybody else; None: unknown.
    """

    paths: Mapping[str, str]
    plans: Mapping[str, str] = field(default_factory=dict)
    default_plan: str | None = None

    def subject(self, past: Past) -> Subject:
        """What policies match on."""
        return Subject(
            external_id=past.user,
            path=self.paths.get(past.endpoint, ""),
            endpoint=past.endpoint,
            model=past.model,
            plan=self.plans.get(past.user, self.default_plan),
        )


class Judge:
    """One policy, and how its limits stand by now.

    Attributes:
        refused, refused_tokens, clamped: requests, tokens of these, requests whose answer would
            have been shorter.
        shadowed: requests that shadow limits had no room for, by limit.
    """

    def __init__(self, policy: Policy) -> None:
        self._limits_for = lru_cache(_SUBJECTS)(policy.limits_for)
        self._now = 0
        # Settled at once, so that a record need not outlive its request.
        self._store = MemoryStore(
            lambda: self._now, max_entries=MAX_STATES, record_ttl_s=0.001, settled_ttl_s=0.001
        )
        self.refused = self.refused_tokens = self.clamped = 0
        self.shadowed: Counter[str] = Counter()

    async def refuses(self, number: int, past: Past, subject: Subject) -> str | None:
        """The limit that refuses a request; None: it is admitted, and charged.

        Raises:
            StoreError: more than ``MAX_STATES`` are needed at once.
        """
        self._now = past.at_ms
        limits = self._limits_for(subject)
        if not limits:
            return None
        used = Quantities(
            requests=1,
            input_tokens=past.input_tokens,
            output_tokens=past.output_tokens,
            characters=past.input_tokens * CHARACTERS_PER_TOKEN,
        )
        request = ReserveRequest(str(number), subject, used)
        try:
            asked = await ask(self._store.reserve, request, limits)
            if asked is None:
                return None
            if asked.verdict.decision is not Decision.ADMITTED:
                raise refusal(asked.claim, asked.verdict)
        except SentinelError as error:
            self.refused += 1
            self.refused_tokens += past.input_tokens + past.output_tokens
            return str(error.details.get("limit_name", NOT_A_LIMIT))
        self.clamped += asked.held.output_tokens < past.output_tokens
        for line, answer in zip(asked.claim.lines, asked.verdict.lines, strict=True):
            if line.limit.shadow and not answer.fits:
                self.shadowed[line.limit.name] += 1
        await self._store.settle(retaken(asked.claim, asked.held, subject.model))
        return None


async def replay(
    past: Timeline, current: Policy, proposed: Policy, known: Known, *, top: int = 20
) -> dict[str, Any]:
    """Judge all of the past by two policies; the comparison as JSON values.

    Args:
        top: users to name, those with most refusals first.

    Raises:
        StoreError: the policies need more states than fit in memory.
    """
    judges = (Judge(current), Judge(proposed))
    newly = no_longer = 0
    for number, one in enumerate(past):
        subject = known.subject(one)
        before, after = [await judge.refuses(number, one, subject) for judge in judges]
        if before is not None:
            past.refuse(CURRENT, one, before)
        if after is not None:
            past.refuse(PROPOSED, one, after)
        newly += before is None and after is not None
        no_longer += before is not None and after is None
    extent = past.extent()
    return {
        "first": None if extent.first_ms is None else iso(extent.first_ms),
        "last": None if extent.last_ms is None else iso(extent.last_ms),
        "requests": extent.requests,
        "tokens": extent.tokens,
        "users": extent.users,
        "current": _summary(past, CURRENT, judges[CURRENT]),
        "proposed": _summary(past, PROPOSED, judges[PROPOSED]),
        "newly_refused_requests": newly,
        "no_longer_refused_requests": no_longer,
        "refused_users": [
            {
                "user": one.user,
                "requests": one.requests,
                "refused_by_proposed": one.proposed,
                "refused_by_current": one.current,
                "share": _share(one.proposed, one.requests),
                "first_refused": None if one.first_ms is None else iso(one.first_ms),
                "limits": list(one.limits),
            }
            for one in past.worst(top)
        ],
        "notes": list(_notes((current, proposed), known)),
    }


def _summary(past: Timeline, policy: int, judge: Judge) -> dict[str, Any]:
    extent = past.extent()
    return {
        "refused_requests": judge.refused,
        "refused_requests_share": _share(judge.refused, extent.requests),
        "refused_tokens": judge.refused_tokens,
        "refused_tokens_share": _share(judge.refused_tokens, extent.tokens),
        "refused_users": past.refused_users(policy),
        "clamped_requests": judge.clamped,
        "shadow_exceeded": dict(judge.shadowed),
        "limits": [asdict(one) for one in past.by_limit(policy)],
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _notes(policies: Iterable[Policy], known: Known) -> Iterable[str]:
    """What the ledger can't tell and these policies ask for."""
    rules = [rule for policy in policies for rule in policy.rules]
    if any(rule.match.path for rule in rules):
        yield "The ledger has no paths: each request is judged by its endpoint's usual path."
    plans_known = known.plans or known.default_plan
    if any(rule.match.plan for rule in rules) and not plans_known:
        yield "The ledger has no plans: say them with --plans or --default-plan."
    if any(limit.kind is Kind.CONCURRENCY for rule in rules for limit in rule.limits):
        yield "The ledger has no durations: limits on what is under way at once are not judged."
    formulas = [limit.cost for rule in rules for limit in rule.limits]
    if any(isinstance(cost, CelCost) and "characters" in cost.formula for cost in formulas):
        yield f"The ledger has no characters: {CHARACTERS_PER_TOKEN} are taken per input token."
