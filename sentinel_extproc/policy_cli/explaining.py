"""What would become of a request: counted, reserved, refused, changed. Asks nobody.

Made of the very functions that serve requests, so that it can't tell another story than they do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sentinel_extproc.endpoints.contract import Plan
from sentinel_extproc.errors import SentinelError
from sentinel_extproc.exchange.events import Headers, RequestHeaders
from sentinel_extproc.exchange.expected_output import Expected, FixedOutput
from sentinel_extproc.exchange.headers import read_head, to_provider
from sentinel_extproc.exchange.intake import claim, output_to_reserve, read_opening
from sentinel_extproc.exchange.providers import Choose, Chosen
from sentinel_extproc.exchange.unreadable import content_type
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.asking import Asked, ask
from sentinel_extproc.limits.claims import refusal, window
from sentinel_extproc.limits.cost import CelCost
from sentinel_extproc.limits.limit import Limit, amount
from sentinel_extproc.limits.model import Quantities, ReserveRequest
from sentinel_extproc.limits.policy import Policy
from sentinel_extproc.limits.store import Decision
from sentinel_extproc.limits.store.memory import MemoryStore
from sentinel_extproc.tokens.model import Confidence, RequestEstimator

_ID = "explained"
_CREDENTIAL = b"Bearer of-the-caller"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sends, and who it is.

    Attributes:
        target: path, with its query.
        body: None: the request has none.
        plan: the user's subscription; None when unknown.
    """

    target: str
    body: bytes | None
    method: str = "POST"
    host: str = "localhost"
    content_type: str = "application/json"
    user: str = "somebody"
    plan: str | None = None

    def headers(self) -> Headers:
        """As Envoy shows them, with what nearly every client sends."""
        lines = [
            (":method", self.method.encode("latin-1", "replace")),
            (":path", self.target.encode("latin-1", "replace")),
            (":authority", self.host.encode("latin-1", "replace")),
            ("authorization", _CREDENTIAL),
            ("accept-encoding", b"gzip"),
        ]
        if self.body is not None:
            lines.append(("content-type", self.content_type.encode("latin-1", "replace")))
            lines.append(("content-length", b"%d" % len(self.body)))
        return tuple(lines)


@dataclass(frozen=True, slots=True)
class Gateway:
    """What decides.

    Attributes:
        choose: the provider and the rules; its keys are never shown.
        default_output: tokens to reserve for a request without a cap.
        max_body_bytes: of a body that is read whole; None: no bound.
    """

    choose: Choose
    policy: Policy
    estimator: RequestEstimator
    default_output: int = 1024
    max_body_bytes: int | None = None


async def explain(request: Request, gateway: Gateway, *, now_ms: int) -> dict[str, Any]:
    """What would become of ``request``, of a user who has used nothing yet, as JSON values.

    ``refused`` is None, or who refuses (``step``: request, limits) and the answer. What comes after
    a refusal isn't there. Amounts are in units of the limit, cost in money.
    """
    story: dict[str, Any] = {"admitted": False, "refused": None, "user": request.user}
    story["plan"] = request.plan
    headers = request.headers()
    try:
        chosen, plan = _planned(request, headers, gateway)
    except SentinelError as error:
        return story | {"refused": _refusal("request", error)}
    predicted, expected = _predict(plan, request, gateway, story)
    principal = Principal(request.user, request.user, "", request.plan)
    wanted = claim(_ID, chosen.match, plan, principal, (), predicted)
    limits = gateway.policy.limits_for(wanted.subject)
    asked: Asked | None = None
    try:
        asked = await _ask(wanted, limits, now_ms)
        if asked is not None and asked.verdict.decision is not Decision.ADMITTED:
            raise refusal(asked.claim, asked.verdict)
    except SentinelError as error:
        story["refused"] = _refusal("limits", error)
    story["limits"] = [
        _limit(limit, wanted, None if asked is None else asked.claim.lines[place].amount)
        for place, limit in enumerate(limits)
    ]
    if story["refused"] is None:
        story["admitted"] = True
        held = predicted if asked is None else asked.held
        story["upstream"] = _upstream(chosen, plan, held, expected, request)
    return story


def _planned(request: Request, headers: Headers, gateway: Gateway) -> tuple[Chosen, Plan]:
    event = RequestHeaders(headers=headers, end_of_stream=request.body is None)
    chosen = gateway.choose(event)
    plan = read_opening(chosen.match, event, max_body_bytes=gateway.max_body_bytes).plan
    if plan is None:
        plan = chosen.match.endpoint.plan(request.body, read_head(headers))
    chosen.check_model(plan.model)
    return chosen, plan


def _predict(
    plan: Plan, request: Request, gateway: Gateway, story: dict[str, Any]
) -> tuple[Quantities, Expected]:
    """What would be asked of the limits; told to ``story``, too."""
    tokens, characters, confidence = 0, 0, Confidence.ROUGH
    if plan.count is not None:
        estimate = gateway.estimator.estimate(plan.count.kind, plan.count.body)
        tokens, characters = estimate.input_tokens, estimate.characters
        confidence = estimate.confidence
    elif not plan.input_tokens:
        confidence = Confidence.EXACT
    expectation = FixedOutput(gateway.default_output)
    expected = output_to_reserve(plan, expectation, request.user)
    story["endpoint"], story["model"] = plan.endpoint, plan.model
    story["input"] = {
        "tokens": tokens + plan.input_tokens,
        "confidence": confidence.value,
        "counted_by": None if plan.count is None else plan.count.kind,
        "characters": characters,
    }
    story["output"] = {
        "tokens": expected.tokens,
        "basis": expected.basis.value,
        "choices": plan.choices,
    }
    story["billed_requests"] = plan.billed_requests
    predicted = Quantities(
        requests=1,
        input_tokens=tokens + plan.input_tokens,
        output_tokens=expected.tokens,
        characters=characters,
    )
    return predicted, expected


async def _ask(wanted: ReserveRequest, limits: tuple[Limit, ...], now_ms: int) -> Asked | None:
    return await ask(MemoryStore(lambda: now_ms).reserve, wanted, limits)


def _limit(limit: Limit, wanted: ReserveRequest, held: int | None) -> dict[str, Any]:
    try:
        needed: int | None = amount(limit, wanted.predicted, wanted.subject.model)
    except ValueError:  # its refusal says why
        needed = None
    return {
        "name": limit.name,
        "unit": limit.unit.value,
        "kind": limit.kind.value,
        "limit": _number(limit, limit.capacity),
        "per": window(limit),
        "burst": None if limit.burst is None else _number(limit, limit.burst),
        "needed": _number(limit, needed),
        "reserved": _number(limit, held),
        "shadow": limit.shadow,
        "per_model": limit.per_model,
        "formula": limit.cost.formula if isinstance(limit.cost, CelCost) else None,
        "on_outage": limit.on_outage.value,
        "on_exhausted": limit.on_exhausted.value,
    }


def _number(limit: Limit, counted: int | None) -> int | float | None:
    return counted if counted is None or limit.scale == 1 else counted / limit.scale


def _upstream(
    chosen: Chosen, plan: Plan, held: Quantities, expected: Expected, request: Request
) -> dict[str, Any]:
    """What the provider gets that the client didn't send, and the other way round."""
    if held.output_tokens < expected.tokens:
        plan = chosen.match.endpoint.clamped(plan, held.output_tokens)
    principal = Principal(request.user, request.user, "")
    drop = chosen.match.endpoint.drop_headers
    headers = request.headers()
    set_headers, removed = to_provider(headers, chosen.upstream, principal, _ID, drop=drop)
    if plan.count is not None:
        set_headers += content_type(headers, read_head(headers), chosen.match.endpoint)
    return {
        "provider": chosen.name or None,
        "output_tokens": held.output_tokens,
        "body": _changes(request.body, plan.upstream_body),
        "set_headers": [name for name, _ in set_headers],
        "removed_headers": list(removed),
        "hides_usage_from_client": plan.hide_usage,
    }


def _changes(sent: bytes | None, forwarded: bytes | None) -> dict[str, Any] | None:
    """Members of the JSON object that are set or changed; None: forwarded as it came."""
    if sent is None or forwarded is None:
        return None
    before: Mapping[str, Any] = json.loads(sent)
    after: Mapping[str, Any] = json.loads(forwarded)
    return {
        name: value for name, value in after.items() if name not in before or before[name] != value
    }


def _refusal(step: str, error: SentinelError) -> dict[str, Any]:
    return {
        "step": step,
        "status": error.status,
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "details": error.details,
    }
