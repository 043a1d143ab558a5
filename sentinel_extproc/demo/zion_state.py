"""What the stand-in Zion knows: users, what they were billed, and what it has seen before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

JsonObject = dict[str, Any]

METRICS = ("aiInputTokens", "aiOutputTokens", "aiRequests")
PER_METRIC_NAMES = {
    "ai_input_tokens": "aiInputTokens",
    "ai_output_tokens": "aiOutputTokens",
    "ai_requests": "aiRequests",
}
_LIMIT_NAME = "ai_usage"
_CREATED_AT = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True, slots=True)
class ZionUser:
    """A user and the caps that Zion knows for them.

    Attributes:
        token: what the user's requests carry.
        external_id: None or empty for a profile that must fail authentication.
        reset_period: ``DAILY``, ``WEEKLY``, ``MONTHLY``, ``NEVER`` or None.
    """

    token: str
    id: str
    external_id: str | None
    email: str
    name: str | None = None
    input_tokens: int = 1_000_000
    output_tokens: int = 1_000_000
    requests: int = 10_000
    reset_period: str | None = "MONTHLY"

    def caps(self) -> dict[str, int]:
        """The caps by the contract's metric names."""
        return dict(
            zip(METRICS, (self.input_tokens, self.output_tokens, self.requests), strict=True)
        )


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One increment that was applied.

    Attributes:
        key: the item's ``idempotencyKey``.
        batch_key: the ``Idempotency-Key`` header that it came under.
    """

    external_id: str
    email: str
    model: str | None
    input_tokens: int
    output_tokens: int
    requests: int
    timestamp: str | None
    key: str | None
    batch_key: str | None


class RowError(Exception):
    """One increment can't be applied; the others of its batch can."""


@dataclass(slots=True)
class ZionState:
    """Users and ledger; call it from one thread.

    Attributes:
        deduplicate: whether an item whose key was seen before is left out of the ledger.
        duplicates: items whose key had been seen before, applied again or not.
    """

    users: list[ZionUser]
    per_metric: bool
    deduplicate: bool
    entries: list[LedgerEntry] = field(default_factory=list)
    duplicates: int = 0
    _seen: set[str] = field(default_factory=set)
    _used: dict[str, dict[str, int]] = field(default_factory=dict)

    def by_token(self, token: str) -> ZionUser | None:
        """The user whose token this is."""
        return next((user for user in self.users if user.token == token), None)

    def by_external_id(self, external_id: str) -> ZionUser | None:
        """The user with this external id."""
        return next((u for u in self.users if u.external_id and u.external_id == external_id), None)

    def profile(self, user: ZionUser) -> JsonObject:
        """``data`` of ``GET /api/v1/users/me``."""
        profile: JsonObject = {
            "id": user.id,
            "email": user.email,
            "emailVerified": True,
            "createdAt": _CREATED_AT,
            "lastLoginAt": _CREATED_AT,
        }
        if user.name is not None:
            profile["name"] = user.name
        if user.external_id is not None:
            profile["externalId"] = user.external_id
        return profile

    def limits(self, user: ZionUser, *, now: datetime) -> JsonObject:
        """``data`` of ``GET /api/v1/limits/external/{externalId}``, in the dialect in use."""
        metrics = self.metrics(user)
        start, end = period(user.reset_period, now)
        bounds: JsonObject = {"resetPeriod": user.reset_period}
        if start is not None and end is not None:
            bounds |= {"periodStart": _iso(start), "periodEnd": _iso(end)}
        limits: list[JsonObject]
        if self.per_metric:
            limits = [
                {"limitId": f"limit-{name}", "name": name, "displayName": name, "unit": "count"}
                | metrics[metric]
                | bounds
                for name, metric in PER_METRIC_NAMES.items()
            ]
        else:
            limits = [{"name": _LIMIT_NAME, "displayName": "AI usage"} | metrics | bounds]
        return {"userId": user.id, "externalId": user.external_id, "limits": limits}

    def metrics(self, user: ZionUser) -> dict[str, dict[str, int]]:
        """Limit, used and remaining of each metric; remaining may be negative."""
        used = self._used.get(user.id, {})
        return {
            metric: {
                "limit": cap,
                "used": used.get(metric, 0),
                "remaining": cap - used.get(metric, 0),
            }
            for metric, cap in user.caps().items()
        }

    def apply(self, item: object, *, batch_key: str | None) -> ZionUser:
        """Apply one increment; a duplicate succeeds and, if told so, changes nothing.

        Raises:
            RowError: it names nobody, or isn't of the dialect's shape.
        """
        if not isinstance(item, dict):
            raise RowError("an increment must be an object")
        user = self._user_of(item)
        amounts = self._amounts(item)
        key = item.get("idempotencyKey")
        if isinstance(key, str):
            if key in self._seen:
                self.duplicates += 1
                if self.deduplicate:
                    return user
            self._seen.add(key)
        used = self._used.setdefault(user.id, dict.fromkeys(METRICS, 0))
        for metric, amount in amounts.items():
            used[metric] += amount
        self.entries.append(
            LedgerEntry(
                external_id=user.external_id or "",
                email=user.email,
                model=item.get("model"),
                input_tokens=amounts.get("aiInputTokens", 0),
                output_tokens=amounts.get("aiOutputTokens", 0),
                requests=amounts.get("aiRequests", 0),
                timestamp=item.get("timestamp"),
                key=key if isinstance(key, str) else None,
                batch_key=batch_key,
            )
        )
        return user

    def result(self, item: object, *, batch_key: str | None) -> JsonObject:
        """Apply one increment of a batch and write down what came of it."""
        try:
            user = self.apply(item, batch_key=batch_key)
        except RowError as refused:
            return self.refusal(item, str(refused))
        identity = self._identity(item)
        metrics = self.metrics(user)
        if self.per_metric and isinstance(item, dict):
            one = metrics[PER_METRIC_NAMES[item["limitName"]]]
            return identity | {"success": True, "newValue": one["used"], "limit": one["limit"]}
        changed = {
            metric: {"newValue": metrics[metric]["used"], "limit": metrics[metric]["limit"]}
            for metric in METRICS
            if isinstance(item, dict) and metric in item
        }
        return identity | {"limitName": _LIMIT_NAME, "success": True} | changed

    def refusal(self, item: object, error: str) -> JsonObject:
        """What is written down for an increment that was not applied."""
        identity = self._identity(item)
        return {"limitName": _LIMIT_NAME, "success": False, "error": error} | identity

    def _identity(self, item: object) -> JsonObject:
        if not isinstance(item, dict):
            return {}
        name = "externalId" if self.per_metric else "email"
        identity = {name: item.get(name)}
        if self.per_metric:
            identity["limitName"] = item.get("limitName")
        return identity

    def _user_of(self, item: Mapping[str, Any]) -> ZionUser:
        name = "externalId" if self.per_metric else "email"
        value = item.get(name)
        if not isinstance(value, str) or not value:
            raise RowError(f"{name} is required")
        if self.per_metric:
            user = self.by_external_id(value)
        else:
            user = next((u for u in self.users if u.email == value), None)
        if user is None:
            raise RowError("User not found")
        return user

    def _amounts(self, item: Mapping[str, Any]) -> dict[str, int]:
        if self.per_metric:
            metric = PER_METRIC_NAMES.get(str(item.get("limitName")))
            if metric is None:
                raise RowError("unknown limitName")
            given: Iterable[tuple[str, Any]] = [(metric, item.get("amount"))]
        else:
            given = [(metric, item[metric]) for metric in METRICS if item.get(metric) is not None]
        amounts: dict[str, int] = {}
        for metric, amount in given:
            if isinstance(amount, bool) or not isinstance(amount, int) or amount < 0:
                raise RowError(f"{metric} must be a whole number, 0 or more")
            amounts[metric] = amount
        if not amounts:
            raise RowError("nothing to increment")
        return amounts


def period(
    reset_period: str | None, now: datetime
) -> tuple[datetime, datetime] | tuple[None, None]:
    """Start and end, UTC, of the calendar window around ``now``; (None, None) without resets."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if reset_period == "DAILY":
        return day, day + timedelta(days=1)
    if reset_period == "WEEKLY":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    if reset_period == "MONTHLY":
        first = day.replace(day=1)
        return first, (first + timedelta(days=32)).replace(day=1)
    return None, None


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
