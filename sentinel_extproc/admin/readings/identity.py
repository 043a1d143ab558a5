"""What the numbers of identities, revocations and quotas are called as metrics."""

from __future__ import annotations

from collections.abc import Callable

from sentinel_extproc.admin.readings.making import Fields, counters_of, greatest
from sentinel_extproc.identity.contract import IdentityCounters
from sentinel_extproc.identity.denylist import DenyCounters
from sentinel_extproc.identity.effect import EffectTimes
from sentinel_extproc.identity.refreshing import CacheCounters
from sentinel_extproc.identity.shared import SharedCounters
from sentinel_extproc.telemetry.readings import Kind, Reading

IDENTITY_ANSWERS: Fields = {
    "fresh": "fresh",
    "stale": "stale",
    "stale_on_error": "stale_on_error",
    "denied_from_cache": "denied_from_cache",
    "looked_up": "looked_up",
    "shed": "shed",
}

IDENTITY_SOURCE: Fields = {
    "called": "source_calls",
    "denied": "source_denials",
    "failed": "source_failures",
}
IDENTITY_HELD_BACK: Fields = {"refresh": "refreshes_shed", "gate": "gated"}
IDENTITY_FORGOTTEN: Fields = {"revoked": "revoked"}
DENIALS: Fields = {"added": "added", "refused": "refused", "unsure": "unsure"}

CACHE_ANSWERS: Fields = {
    "fresh": "fresh",
    "stale": "stale",
    "stale_on_error": "stale_on_error",
    "looked_up": "looked_up",
    "shed": "shed",
}
CACHE_HELD_BACK: Fields = {"refresh": "refreshes_shed"}

SHARED_RESULTS: Fields = {
    "hit": "hits",
    "miss": "misses",
    "failure": "failures",
    "skipped": "skipped",
}


def identity_readings(counters: Callable[[], IdentityCounters]) -> list[Reading]:
    """Of the authenticator."""
    return [
        counters_of(
            "sentinel_identity_answers_total",
            "Credentials checked, by where the answer came from.",
            "from",
            counters,
            IDENTITY_ANSWERS,
        ),
        counters_of(
            "sentinel_identity_source_calls_total",
            "Calls to the identity source: all of them, and those that were denied or failed.",
            "result",
            counters,
            IDENTITY_SOURCE,
        ),
        counters_of(
            "sentinel_identity_held_back_total",
            "Look-ups not made: refreshes because too many ran, and unknown tokens at the gate.",
            "by",
            counters,
            IDENTITY_HELD_BACK,
        ),
        counters_of(
            "sentinel_identity_forgotten_total",
            "Times that cached identities were forgotten on demand.",
            "why",
            counters,
            IDENTITY_FORGOTTEN,
        ),
    ]


def revocation_readings(
    denials: Callable[[], DenyCounters], effect: Callable[[], EffectTimes]
) -> list[Reading]:
    """Of revoked tokens, and of how soon revocations hold here."""
    return [
        counters_of(
            "sentinel_identity_denied_tokens_total",
            "Tokens revoked here, requests refused for one, and looks that Redis didn't answer.",
            "what",
            denials,
            DENIALS,
        ),
        Reading(
            "sentinel_revocations_applied_total",
            "Revocations that took effect here, by a message or because an epoch had moved.",
            Kind.COUNTER,
            lambda: effect().count,
        ),
        Reading(
            "sentinel_revocation_effect_seconds_total",
            "Sum of the seconds from each of them to its effect here.",
            Kind.COUNTER,
            lambda: effect().seconds,
        ),
        greatest(
            "sentinel_revocation_effect_last_seconds",
            "From the latest revocation to its effect here.",
            lambda: effect().last_s,
        ),
        greatest(
            "sentinel_revocation_effect_longest_seconds",
            "The longest that a revocation took to its effect here.",
            lambda: effect().longest_s,
        ),
    ]


def quota_readings(counters: Callable[[], CacheCounters]) -> list[Reading]:
    """Of the cache of Zion's quotas."""
    return [
        counters_of(
            "sentinel_quota_answers_total",
            "Quotas asked for, by where the answer came from.",
            "from",
            counters,
            CACHE_ANSWERS,
        ),
        counters_of(
            "sentinel_quota_held_back_total",
            "Refreshes not made because too many ran.",
            "by",
            counters,
            CACHE_HELD_BACK,
        ),
    ]


def shared_cache_readings(counters: Callable[[], SharedCounters]) -> list[Reading]:
    """Of the identities shared in Redis."""
    return [
        counters_of(
            "sentinel_identity_shared_total",
            "Look-ups in the cache that replicas share.",
            "result",
            counters,
            SHARED_RESULTS,
        )
    ]
