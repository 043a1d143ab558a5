"""What an exchange is billed: from the provider's word, our count, or an estimate. Pure."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from sentinel_extproc.endpoints.contract import Plan, Reading
from sentinel_extproc.endpoints.json_body import MAX_MODEL_CHARS
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Quantities, ReserveRequest
from sentinel_extproc.tokens.model import Confidence
from sentinel_extproc.usage.record import (
    Intent,
    Outcome,
    Pricer,
    Provenance,
    TokenUsage,
    UsageRecord,
    unpriced,
)


class Bill(Struct, frozen=True, gc=False):
    """The end of an exchange in numbers."""

    usage: TokenUsage
    provenance: Provenance
    outcome: Outcome
    model_served: str | None

    def quantities(self, predicted: Quantities) -> Quantities:
        """What to settle the reservation to. A request that was forwarded stays a request."""
        return Quantities(
            requests=predicted.requests,
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
            characters=predicted.characters,
        )


def used(plan: Plan, predicted: Quantities, reading: Reading) -> TokenUsage:
    """The tokens of an exchange as far as they are known."""
    if reading.reported is not None:
        return reading.reported
    made = predicted.output_tokens if reading.deferred else reading.output_tokens
    if plan.output_cap == 0:
        made = 0
    if reading.so_far is not None:
        return replace(reading.so_far, output_tokens=reading.so_far.output_tokens + made)
    return TokenUsage(input_tokens=predicted.input_tokens, output_tokens=made)


def bill(
    plan: Plan,
    predicted: Quantities,
    reading: Reading,
    outcome: Outcome,
    confidence: Confidence = Confidence.ROUGH,
) -> Bill:
    """Decide what to bill.

    The provider's own usage wins, whatever else happened. A refusal by the provider costs no
    tokens, since providers don't charge for them. Anything cut short costs the prompt and what
    was seen of the answer, never nothing: the provider has done that work.

    Args:
        confidence: how far ``predicted.input_tokens`` can be trusted.
    """
    usage = used(plan, predicted, reading)
    if reading.reported is not None:
        return Bill(usage, Provenance.PROVIDER, outcome, reading.model_served)
    if outcome is Outcome.PROVIDER_ERROR:
        return Bill(TokenUsage(), Provenance.COUNTED, outcome, reading.model_served)
    known_input = reading.so_far is not None or confidence is not Confidence.ROUGH
    known_output = (reading.exact and not reading.deferred) or plan.output_cap == 0
    counted = known_input and known_output
    provenance = Provenance.COUNTED if counted else Provenance.ESTIMATED
    return Bill(usage, provenance, outcome, reading.model_served)


def intent(
    request: ReserveRequest,
    plan: Plan,
    principal: Principal,
    *,
    occurred_at_ms: int,
    request_id: str | None,
) -> Intent:
    """What is to be known of an exchange if it never gets its record."""
    return Intent(
        id=request.exchange_id,
        occurred_at_ms=occurred_at_ms,
        external_id=principal.external_id,
        email=principal.email,
        endpoint=plan.endpoint,
        model=plan.model,
        request_id=request_id,
        predicted_input_tokens=request.predicted.input_tokens,
        reserved_output_tokens=request.predicted.output_tokens,
    )


def usage_record(
    bill: Bill,
    plan: Plan,
    principal: Principal,
    *,
    exchange_id: str,
    occurred_at_ms: int,
    request_id: str | None = None,
    price: Pricer = unpriced,
) -> UsageRecord:
    """The record of one exchange. A refusal by the provider costs nothing."""
    served = _name(bill.model_served)
    requests = 0 if bill.outcome is Outcome.PROVIDER_ERROR else plan.billed_requests
    cost = price(plan.model, served, bill.usage, requests)
    return UsageRecord(
        id=exchange_id,
        occurred_at_ms=occurred_at_ms,
        external_id=principal.external_id,
        email=principal.email,
        endpoint=plan.endpoint,
        model_requested=plan.model,
        model_served=served,
        requests=plan.billed_requests,
        usage=bill.usage,
        provenance=bill.provenance,
        outcome=bill.outcome,
        cost_nanos=None if cost is None else cost.nanos,
        currency=None if cost is None else cost.currency,
        request_id=request_id,
    )


def _name(model: str | None) -> str | None:
    # From the provider: what can't be shown (a lone surrogate) could not even be stored.
    usable = model is not None and len(model) <= MAX_MODEL_CHARS and model.isprintable()
    return model if usable else None


def lesson(plan: Plan, bill: Bill) -> int | None:
    """What one choice of this answer came to, if that tells what to expect of others.

    Only whole answers without a cap do: all others might have become longer. What was estimated
    would teach our own guess.
    """
    whole = bill.outcome is Outcome.COMPLETED and plan.output_cap is None and not plan.endless
    if not whole or bill.provenance is Provenance.ESTIMATED:
        return None
    return -(-bill.usage.output_tokens // plan.choices)


def access_log(bill: Bill) -> dict[str, str | int]:
    """Facts of the bill for Envoy's access log."""
    return {
        "input_tokens": bill.usage.input_tokens,
        "output_tokens": bill.usage.output_tokens,
        "provenance": bill.provenance,
        "outcome": bill.outcome,
    }
