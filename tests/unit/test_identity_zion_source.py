"""A profile becomes a principal only when it can be billed."""

from __future__ import annotations

from typing import Any

import pytest

from sentinel_extproc.errors import Forbidden
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.refreshing import SourceBusy
from sentinel_extproc.identity.zion_source import ZionSource, principal_of
from sentinel_extproc.zion.answers import Reason, ZionUnavailable
from sentinel_extproc.zion.wire import Profile


def profile(**changes: Any) -> Profile:
    values: dict[str, Any] = {"id": "u1", "email": "a@example.org", "external_id": "ext-1"}
    return Profile(**{**values, **changes})


def test_principal() -> None:
    assert principal_of(profile()) == Principal("ext-1", "u1", "a@example.org")


@pytest.mark.parametrize("external_id", [None, "", " ", "\t\n", "\u2003"])
def test_without_external_id_nobody_gets_in(external_id: str | None) -> None:
    with pytest.raises(Forbidden) as caught:
        principal_of(profile(external_id=external_id))
    assert caught.value.code == "external_id_missing"
    assert caught.value.status == 403
    assert "u1" not in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {"external_id": "a\r\nb"},
        {"external_id": "a\0"},
        {"external_id": "x" * 257},
        {"email": "a\n@example.org"},
        {"email": "x" * 321},
    ],
)
def test_values_that_no_header_can_carry_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(Forbidden) as caught:
        principal_of(profile(**changes))
    assert caught.value.code == "profile_invalid"


def test_a_missing_email_is_left_empty() -> None:
    assert principal_of(profile(email=None)).email == ""


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def whoami(self, token: str) -> Profile:
        raise self.error


async def test_rate_limiting_is_told_apart_from_failure() -> None:
    limited = ZionUnavailable("m", reason=Reason.RATE_LIMITED, retry_after_s=12)
    with pytest.raises(SourceBusy) as caught:
        await ZionSource(Failing(limited)).identify("t")
    assert caught.value.retry_after_s == 12
    down = ZionUnavailable("m", reason=Reason.TIMEOUT)
    with pytest.raises(ZionUnavailable):
        await ZionSource(Failing(down)).identify("t")
