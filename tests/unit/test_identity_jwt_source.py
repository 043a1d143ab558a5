"""JWTs checked locally: what passes, and everything that must not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from sentinel_extproc.errors import Forbidden, Unauthenticated
from sentinel_extproc.identity.claim_names import ClaimNames
from sentinel_extproc.identity.jwks import BadKeySetError, KeySet, VerificationKey, parse_jwks
from sentinel_extproc.identity.jwt_source import JwtSource
from sentinel_extproc.identity.principal import Principal

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        values: dict[str, Any] = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        values = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        values = OKPAlgorithm.to_jwk(public, as_dict=True)
    values.pop("key_ops", None)
    return {**values, **more}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


ALL = jwks(jwk(RSA, kid="r"), jwk(EC, kid="e", use="sig"), jwk(ED, kid="d", alg="EdDSA"))


class Keys:
    def __init__(self, keys: KeySet) -> None:
        self.keys = keys

    async def find(self, kid: str | None, alg: str) -> VerificationKey | None:
        return self.keys.find(kid, alg)


def source(body: bytes = ALL, **options: Any) -> JwtSource:
    settings = {"issuer": "https://issuer.example", "audience": "sentinel", **options}
    return JwtSource(Keys(parse_jwks(body)), **settings)


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    values = {
        "iss": "https://issuer.example",
        "aud": "sentinel",
        "sub": "ext-1",
        "email": "a@example.org",
        "exp": now + 600,
        "iat": now,
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None}


def token(key: Any = RSA, alg: str = "RS256", kid: str | None = "r", **changes: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**changes), key, algorithm=alg, headers=headers)


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("key", "alg", "kid"),
    [
        (RSA, "RS256", "r"),
        (RSA, "RS512", "r"),
        (RSA, "PS256", "r"),
        (RSA, "RS256", None),
        (EC, "ES256", "e"),
        (EC, "ES256", None),
        (ED, "EdDSA", "d"),
    ],
)
async def test_good_tokens(key: Any, alg: str, kid: str | None) -> None:
    principal = await source().identify(token(key, alg, kid))
    assert principal == Principal("ext-1", "ext-1", "a@example.org")


async def test_audience_in_a_list_and_a_little_clock_skew() -> None:
    now = int(time.time())
    for good in (
        token(aud=["other", "sentinel"]),
        token(exp=now - 10),
        token(nbf=now + 10),
    ):
        assert (await source().identify(good)).external_id == "ext-1"


async def test_claims_are_mapped() -> None:
    mapped = source(names=ClaimNames(external_id="tenant", email="mail", plan="tier"))
    made = token(tenant="ext-9", mail="b@example.org", tier="pro")
    assert await mapped.identify(made) == Principal("ext-9", "ext-1", "b@example.org", "pro")
    assert await mapped.identify(token(tenant="ext-9")) == Principal("ext-9", "ext-1", "")


def unsigned() -> str:
    return f"{segment({'alg': 'none', 'typ': 'JWT'})}.{segment(claims())}."


def confused() -> str:
    """Signed with HMAC, the public key's PEM as the secret."""
    pem = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head = f"{segment({'alg': 'HS256', 'kid': 'r'})}.{segment(claims())}"
    return f"{head}.{segment(hmac.new(pem, head.encode(), hashlib.sha256).digest())}"


def brings_its_own_key() -> str:
    headers = {"kid": "r", "jwk": jwk(OTHER_RSA), "jku": "https://evil.example/keys"}
    return jwt.encode(claims(), OTHER_RSA, algorithm="RS256", headers=headers)


def altered() -> str:
    head, _, signature = token().split(".")
    return f"{head}.{segment(claims(sub='ext-2'))}.{signature}"


BAD = {
    "none": unsigned,
    "none with a signature": lambda: unsigned() + "c2ln",
    "key confusion": confused,
    "own key": brings_its_own_key,
    "altered": altered,
    "another key": lambda: token(OTHER_RSA),
    "unknown key id": lambda: token(kid="zzz"),
    "another key's id": lambda: token(kid="e"),
    "expired": lambda: token(exp=int(time.time()) - 60),
    "no expiry": lambda: token(exp=None),
    "not yet": lambda: token(nbf=int(time.time()) + 600),
    "another issuer": lambda: token(iss="https://evil.example"),
    "no issuer": lambda: token(iss=None),
    "another audience": lambda: token(aud="other"),
    "no audience": lambda: token(aud=None),
    "issuer with a slash more": lambda: token(iss="https://issuer.example/"),
    "critical header": lambda: jwt.encode(
        claims(), RSA, algorithm="RS256", headers={"kid": "r", "crit": ["x"], "x": 1}
    ),
    "signature cut": lambda: token()[:-4],
    "signature empty": lambda: token().rpartition(".")[0] + ".",
    "opaque": lambda: "sk-abc",
    "empty": lambda: "",
    "dots": lambda: "..",
    "not JSON": lambda: f"{segment(b'x')}.{segment(b'y')}.c2ln",
    "deep": lambda: f"{segment(b'[' * 3000)}.{segment(b'[' * 2000)}.c2ln",
    "odd alg": lambda: f"{segment({'alg': ['RS256']})}.{segment(claims())}.c2ln",
    "odd kid": lambda: f"{segment({'alg': 'RS256', 'kid': 5})}.{segment(claims())}.c2ln",
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
async def test_bad_tokens(make: Any) -> None:
    with pytest.raises(Unauthenticated):
        await source().identify(make())


async def test_an_algorithm_that_was_not_chosen_is_refused() -> None:
    with pytest.raises(Unauthenticated):
        await source(algorithms=["ES256"]).identify(token())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sub": None}, "external_id_missing"),
        ({"sub": " "}, "external_id_missing"),
        ({"sub": "a\nb"}, "profile_invalid"),
        ({"email": ["x"]}, "profile_invalid"),
    ],
)
async def test_a_valid_token_that_can_not_be_billed(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(Forbidden) as caught:
        await source().identify(token(**changes))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "options",
    [
        {"issuer": ""},
        {"audience": ""},
        {"algorithms": []},
        {"algorithms": ["HS256"]},
        {"algorithms": ["RS256", "none"]},
    ],
)
def test_unsafe_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"JWTs|algorithms"):
        source(**options)


SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
SECRET = {"kty": "oct", "k": segment(b"x" * 32), "kid": "s", "alg": "HS256"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": 5}',
        b'{"keys": []}',
        b'{"keys": [5, null, {}]}',
        jwks(SECRET),
        jwks(jwk(RSA, use="enc")),
        jwks(jwk(RSA, key_ops=["encrypt"])),
        jwks(jwk(RSA, alg="RSA-OAEP")),
        jwks(jwk(RSA, alg="HS256")),
        jwks(jwk(SMALL)),
        jwks({"kty": "RSA", "n": "!!", "e": "AQAB"}),
        jwks({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        jwks({**jwk(EC), "crv": "secp256k1"}),
        jwks({**jwk(RSA), "d": "AQAB"}),
    ],
)
def test_key_sets_without_a_usable_key(body: bytes) -> None:
    with pytest.raises(BadKeySetError):
        parse_jwks(body)


def test_unusable_keys_do_not_spoil_the_others() -> None:
    keys = parse_jwks(jwks(SECRET, jwk(SMALL, kid="small"), jwk(RSA, kid="r")))
    assert len(keys) == 1
    assert keys.find("r", "RS256") is not None


def test_a_key_is_only_for_its_own_algorithm() -> None:
    keys = parse_jwks(jwks(jwk(RSA, kid="r", alg="RS256"), jwk(EC, kid="e")))
    assert keys.find("r", "RS256") is not None
    assert keys.find("r", "PS256") is None
    assert keys.find("e", "RS256") is None
    assert keys.find("e", "ES384") is None
    assert keys.find("r", "HS256") is None


def test_without_a_key_id_the_key_must_be_the_only_one() -> None:
    one = parse_jwks(jwks(jwk(RSA, kid="r")))
    two = parse_jwks(jwks(jwk(RSA, kid="r"), jwk(OTHER_RSA, kid="o")))
    assert one.find(None, "RS256") is not None
    assert two.find(None, "RS256") is None
    assert parse_jwks(jwks(jwk(RSA, kid="r"), jwk(OTHER_RSA, kid="r"))).find("r", "RS256") is None


async def test_a_jwt_has_no_padding() -> None:
    text = token()
    await source().identify(text)
    with pytest.raises(Unauthenticated):
        await source().identify(f"{text}==")
