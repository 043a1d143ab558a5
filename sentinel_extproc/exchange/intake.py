"""The first steps of an exchange: what a request is, and what it claims of the limits. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sentinel_extproc.endpoints.contract import Plan
from sentinel_extproc.endpoints.table import Match, match
from sentinel_extproc.exchange.events import Headers
from sentinel_extproc.exchange.headers import caller_token, first, read_head, refuse_unreadable
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Quantities, Quota, ReserveRequest, Subject


def find_rules(headers: Headers, *, prefix: str) -> Match:
    """The rules for a request.

    Raises:
        InvalidRequest, NotFound: as in :func:`~sentinel_extproc.endpoints.table.match`.
    """
    method = first(headers, ":method").decode("latin-1")
    return match(method, first(headers, ":path").decode("latin-1"), prefix=prefix)


@dataclass(frozen=True, slots=True)
class Opening:
    """What the headers of a request say.

    Attributes:
        plan: None when it needs the whole body.
    """

    token: str
    plan: Plan | None


def read_opening(matched: Match, headers: Headers, *, end_of_stream: bool) -> Opening:
    """Take the token, and decide from the headers if the endpoint can.

    Raises:
        Unauthenticated: no usable token.
        InvalidRequest: it can't be governed as it comes.
    """
    endpoint = matched.endpoint
    token = caller_token(headers, endpoint.key_header)
    refuse_unreadable(headers, upgrades=endpoint.upgrades)
    head = read_head(headers)
    plan = endpoint.plan_head(head)
    if plan is None and end_of_stream:
        plan = endpoint.plan(None, head)
    return Opening(token, plan)


def claim(
    exchange_id: str,
    matched: Match,
    plan: Plan,
    principal: Principal,
    quotas: tuple[Quota, ...],
    predicted: Quantities,
) -> ReserveRequest:
    """What to reserve, and for whom."""
    subject = Subject(
        external_id=principal.external_id,
        path=matched.path,
        endpoint=plan.endpoint,
        model=plan.model,
        plan=principal.plan,
    )
    return ReserveRequest(exchange_id, subject, predicted, quotas=quotas, epochs=principal.epochs)
