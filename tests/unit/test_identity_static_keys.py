"""API keys by hash."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from sentinel_extproc.errors import Unauthenticated
from sentinel_extproc.identity.effect import EffectTimes
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.service import CachedAuthenticator
from sentinel_extproc.identity.static_keys import StaticKeys, digest, new_key
from sentinel_extproc.identity_parts import IdentityParts

ALICE = Principal("ext-a", "a", "a@example.org", plan="pro")


async def test_a_known_key() -> None:
    key = new_key()
    authenticator = CachedAuthenticator(StaticKeys({digest(key).upper(): ALICE}))
    assert await authenticator.authenticate(key) == ALICE
    await authenticator.aclose()


@pytest.mark.parametrize("token", ["", "other", digest("known"), "\ud800", "x" * 8192])
async def test_every_other_token(token: str) -> None:
    with pytest.raises(Unauthenticated):
        await StaticKeys({digest("known"): ALICE}).identify(token)


def test_keys_are_long_and_never_the_same() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert min(map(len, keys)) >= 43


@pytest.mark.parametrize(
    ("principals", "message"),
    [
        ({"sk-secret": ALICE}, "64 hex digits"),
        ({"": ALICE}, "64 hex digits"),
        ({"z" * 64: ALICE}, "64 hex digits"),
        ({digest("k"): ALICE, digest("k").upper(): ALICE}, "twice"),
        ({digest("k"): Principal(" ", "a", "")}, "no external id"),
    ],
)
def test_a_table_with_faults(principals: dict[str, Principal], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        StaticKeys(principals)
    assert "sk-secret" not in str(caught.value)


async def test_replaced_keys_count_from_the_next_request_on_whatever_is_cached() -> None:
    keys = StaticKeys({digest("old"): ALICE})
    parts = IdentityParts(
        CachedAuthenticator(keys), MagicMock(), MagicMock(), EffectTimes(), static_keys=keys
    )
    authenticator = parts.authenticator
    assert await authenticator.authenticate("old") == ALICE
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate("new")
    parts.take_static_keys({digest("new"): ALICE})
    assert await authenticator.authenticate("new") == ALICE
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate("old")
    forgotten = authenticator.counters.revoked
    parts.take_static_keys({digest("new"): ALICE})
    assert authenticator.counters.revoked == forgotten, "the same keys forget nobody"
    with pytest.raises(ValueError, match="64 hex digits"):
        parts.take_static_keys({"sk-secret": ALICE})
    assert await authenticator.authenticate("new") == ALICE
    await authenticator.aclose()
