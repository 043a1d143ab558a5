"""What an exchange is billed: from the provider's word, our count, or an estimate. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sentinel_extproc.endpoints.contract import Plan, Reading
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Quantities
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord


@dataclass(frozen=True, slots=True)
class Bill:
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


def bill(plan: Plan, predicted: Quantities, reading: Reading, outcome: Outcome) -> Bill:
    """Decide what to bill.

    The provider's own usage wins, whatever else happened. A refusal by the provider costs no
    tokens, since providers don't charge for them. Anything cut short costs the prompt and what
    was seen of the answer, never nothing: the provider has done that work.
    """
    if reading.reported is not None:
        return Bill(reading.reported, Provenance.PROVIDER, outcome, reading.model_served)
    if outcome is Outcome.PROVIDER_ERROR:
        return Bill(TokenUsage(), Provenance.COUNTED, outcome, reading.model_served)
    usage = TokenUsage(
        input_tokens=predicted.input_tokens,
        output_tokens=0 if plan.output_cap == 0 else reading.output_tokens,
    )
    counted = reading.exact and plan.count is not None
    provenance = Provenance.COUNTED if counted else Provenance.ESTIMATED
    return Bill(usage, provenance, outcome, reading.model_served)


def usage_record(
    bill: Bill, plan: Plan, principal: Principal, *, exchange_id: str, occurred_at_ms: int
) -> UsageRecord:
    """The record of one exchange."""
    return UsageRecord(
        id=exchange_id,
        occurred_at_ms=occurred_at_ms,
        external_id=principal.external_id,
        email=principal.email,
        endpoint=plan.endpoint,
        model_requested=plan.model,
        model_served=bill.model_served,
        requests=plan.billed_requests,
        usage=bill.usage,
        provenance=bill.provenance,
        outcome=bill.outcome,
    )


def access_log(bill: Bill) -> dict[str, str | int]:
    """Facts of the bill for Envoy's access log."""
    return {
        "input_tokens": bill.usage.input_tokens,
        "output_tokens": bill.usage.output_tokens,
        "provenance": bill.provenance.value,
        "outcome": bill.outcome.value,
    }
