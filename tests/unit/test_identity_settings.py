"""Settings of identity sources: each source's needs, every fault at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sentinel_extproc.config.load import ConfigError, load
from sentinel_extproc.config.sections.identity import IdentitySettings, IdentitySourceName
from sentinel_extproc.errors import Unauthenticated
from sentinel_extproc.exchange.events import RequestHeaders
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.static_keys import (
    StaticKeys,
    StaticKeysError,
    digest,
    load_static_keys,
)
from sentinel_extproc.identity_parts import credential_of

NEEDED = {"OPENAI_API_KEY": "sk-1", "ZION_API_URL": "http://zion", "ZION_API_KEY": "z-2"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SENTINEL_", "ZION_", "OPENAI_", "REDIS_")) or "CACHE_TTL" in name:
            monkeypatch.delenv(name)
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)


def given(monkeypatch: pytest.MonkeyPatch, **names: str) -> None:
    for name, value in names.items():
        monkeypatch.setenv(f"SENTINEL_IDENTITY__{name.upper()}", value)


JWT = {
    "source": "jwt",
    "jwt_issuer": "https://issuer",
    "jwt_audience": "us",
    "jwks_url": "https://issuer/keys",
}


def test_zion_is_the_default() -> None:
    assert load().identity.source is IdentitySourceName.ZION


@pytest.mark.parametrize(
    "names",
    [
        JWT,
        JWT | {"jwt_external_id_claim": "org", "jwt_plan_claim": "tier"},
        {"source": "envoy_jwt"},
        {"source": "envoy_jwt", "jwt_issuer": "https://issuer", "jwt_audience": "us"},
    ],
)
def test_complete_settings(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> None:
    given(monkeypatch, **names)
    assert load().identity.source == names["source"]


@pytest.mark.parametrize(
    ("names", "faulty"),
    [
        ({"source": "jwt"}, ["jwt_issuer", "jwt_audience", "jwks_url"]),
        (JWT | {"jwt_audience": ""}, ["jwt_audience"]),
        (JWT | {"jwks_url": "ftp://issuer"}, ["jwks_url"]),
        (JWT | {"jwks_ca_file": "/does/not/exist"}, ["jwks_ca_file"]),
        ({"source": "magic"}, ["source"]),
        ({"jwt_issuer": "https://issuer", "jwks_url": "https://i"}, ["jwks_url", "jwt_issuer"]),
        ({"source": "envoy_jwt", "jwks_url": "https://issuer"}, ["jwks_url"]),
        ({"source": "static"}, ["static_keys_file"]),
        ({"source": "static", "static_keys_file": "/does/not/exist"}, ["static_keys_file"]),
        ({"static_keys_file": "keys.yaml"}, ["static_keys_file"]),
        ({"revoked_token_seconds": "59"}, ["revoked_token_seconds"]),
    ],
)
def test_what_is_missing_or_does_not_belong(
    monkeypatch: pytest.MonkeyPatch, names: dict[str, str], faulty: list[str]
) -> None:
    given(monkeypatch, **names)
    with pytest.raises(ConfigError) as caught:
        load()
    found = [fault.partition(":")[0] for fault in caught.value.faults]
    assert found == [f"identity.{name}" for name in faulty]


KEYS = f"""
- sha256: "{digest("sk-ada").upper()}"
  external_id: ext-ada
  email: ada@example.com
  plan: pro
- {{sha256: "{digest("sk-bo")}", external_id: ext-bo, user_id: u-bo}}
"""


async def test_static_keys_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(KEYS)
    given(monkeypatch, source="static", static_keys_file=str(file))
    keys = StaticKeys(load_static_keys(load().identity.static_keys_file or Path()))
    assert await keys.identify("sk-ada") == Principal(
        "ext-ada", "ext-ada", "ada@example.com", "pro"
    )
    assert await keys.identify("sk-bo") == Principal("ext-bo", "u-bo", "")
    with pytest.raises(Unauthenticated):
        await keys.identify("sk-other")


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["Expected `array`, got `null`"]),
        ("[]", ["there is no key in it"]),
        ("[", ["not valid YAML"]),
        (
            "- sha256: sk-plain\n  external_id: x",
            ["key 1: sha256 must be 64 hex digits, in quotes"],
        ),
        (KEYS + KEYS, [f"key 3: {digest('sk-ada')[:8]}…", "key 4: "]),
        (f'- {{sha256: "{"a" * 64}", external_id: " "}}', ["key 1: external_id_missing"]),
        ("- {sha256: x, external_id: y, secret: z}", ["Object contains unknown field `secret`"]),
        ("#" * (1 << 20) + "\n", ["larger than 1048576 bytes"]),
    ],
)
def test_a_key_file_with_faults(tmp_path: Path, text: str, faults: list[str]) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(StaticKeysError) as caught:
        load_static_keys(file)
    assert len(caught.value.faults) == len(faults)
    for found, expected in zip(caught.value.faults, faults, strict=True):
        assert found.startswith(expected)
    assert "sk-plain" not in str(caught.value)


def test_only_envoys_claims_are_taken_when_they_are_the_source() -> None:
    event = RequestHeaders([("authorization", b"Bearer t")], end_of_stream=True)
    assert credential_of(IdentitySettings())(event, "") == "t"
    by_claims = credential_of(IdentitySettings(source=IdentitySourceName.ENVOY_JWT))
    with pytest.raises(Unauthenticated):
        by_claims(event, "")
