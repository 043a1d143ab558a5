"""The first steps of an exchange: what a request is, and what it claims of the limits. Pure."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from sentinel_extproc.endpoints.contract import Head, Plan
from sentinel_extproc.endpoints.json_body import MAX_COUNT
from sentinel_extproc.endpoints.table import Match
from sentinel_extproc.errors import PayloadTooLarge, Unauthenticated
from sentinel_extproc.exchange.events import RequestHeaders
from sentinel_extproc.exchange.expected_output import Basis, Expected, OutputExpectation
from sentinel_extproc.exchange.headers import caller_token, read_head
from sentinel_extproc.exchange.unreadable import refuse_second_request, refuse_unreadable
from sentinel_extproc.identity.claims import claims_credential
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Quantities, Quota, ReserveRequest, Subject


class Opening(Struct, frozen=True, gc=False):
    """What the headers of a request say.

    Attributes:
        plan: None when it needs the whole body.
    """

    token: str
    head: Head
    plan: Plan | None


Credential = Callable[[RequestHeaders, str], str]
"""Takes a request's credential: its headers, and which header this API's clients may put it into
instead of ``authorization``. Raises Unauthenticated."""


def bearer(event: RequestHeaders, key_header: str) -> str:
    """The token that the client sent: a ``Credential``."""
    return caller_token(event.headers, key_header)


def verified_claims(name: str) -> Credential:
    """The claims that Envoy verified and put under ``name``, whatever the client sent."""

    def credential(event: RequestHeaders, key_header: str) -> str:
        try:
            token = caller_token(event.headers, key_header)
        except Unauthenticated:
            token = ""  # Envoy takes a token away once it is verified, unless told to forward it
        return claims_credential(event.verified, name, token)

    return credential


def read_opening(
    matched: Match,
    event: RequestHeaders,
    *,
    credential: Credential = bearer,
    max_body_bytes: int | None = None,
) -> Opening:
    """Take the credential, and decide from the headers if the endpoint can.

    Args:
        max_body_bytes: Envoy's buffer for a body that is read whole. It has its own 413 for one
            that is longer, but if that much comes before our first reply the client may wait for
            it in vain (seen on Envoy 1.40), so what says its length is refused here.

    Raises:
        Unauthenticated: no usable credential.
        PayloadTooLarge: its body can't be read whole.
        InvalidRequest: it can't be governed as it comes.
        MethodNotAllowed: no API here has its method.
    """
    headers, end_of_stream = event.headers, event.end_of_stream
    endpoint = matched.endpoint
    token = credential(event, matched.key_header or endpoint.key_header)
    refuse_unreadable(headers, upgrades=endpoint.upgrades)
    head = read_head(headers)
    plan = endpoint.plan_head(head)
    refuse_second_request(head, endpoint, plan, end_of_stream=end_of_stream)
    if plan is None and end_of_stream:
        plan = endpoint.plan(None, head)
    length = head.content_length or 0
    if plan is None and max_body_bytes is not None and length > max_body_bytes:
        raise PayloadTooLarge(
            f"The request's body has {length} bytes; at most {max_body_bytes} are taken."
        )
    return Opening(token, head, plan)


def output_to_reserve(plan: Plan, expectation: OutputExpectation, user: str) -> Expected:
    """Output for all choices together: what the request caps it to, else what is expected.

    Sessions start with the default and let their hold follow: what a whole one comes to says
    nothing about its start.
    """
    if plan.output_cap is not None:
        return Expected(plan.output_cap, Basis.CAP)
    if plan.endless:
        return Expected(expectation.default, Basis.DEFAULT)
    one = expectation.expect(user, kind_of(plan))
    return Expected(min(one.tokens * plan.choices, MAX_COUNT), one.basis)


def kind_of(plan: Plan) -> str:
    """What requests must share for their answers to be expected alike."""
    return f"{plan.endpoint} {plan.model}"


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
