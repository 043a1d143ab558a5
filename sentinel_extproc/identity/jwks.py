"""A JSON Web Key Set (RFC 7517): which of its keys may check a token. Pure.

Only public keys for signatures are taken, and each for the algorithms of its own type only: with
that, neither ``alg: none`` nor a token signed with a public key as if it were a shared secret can
pass, whatever the token says of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

MIN_RSA_BITS = 2048  # RFC 7518, 3.3
MAX_KEYS = 100

ALGORITHMS: Mapping[tuple[str, str | None], tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""By key type and curve (RFC 7518, 3.1; RFC 8037, 3.1)."""

SUPPORTED = frozenset(name for names in ALGORITHMS.values() for name in names)


class BadKeySetError(ValueError):
    """Not a key set, or one without any key that can be used."""


class _Jwk(msgspec.Struct):
    kty: str
    kid: str | None = None
    use: str | None = None
    alg: str | None = None
    crv: str | None = None
    key_ops: list[str] | None = None


class _Jwks(msgspec.Struct):
    keys: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, and the algorithms that it may check."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: jwt.PyJWK


class KeySet:
    """The keys of one issuer."""

    def __init__(self, keys: tuple[VerificationKey, ...]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, kid: str | None, alg: str) -> VerificationKey | None:
        """The one key that a token with this header is to be checked with.

        Without ``kid`` it must be the only one for ``alg``: trying all would let an attacker
        choose.
        """
        fitting = [key for key in self._keys if alg in key.algorithms and kid in {None, key.kid}]
        return fitting[0] if len(fitting) == 1 else None


def parse_jwks(body: bytes) -> KeySet:
    """Read a key set, leaving out keys that are not for checking signatures or not supported.

    Raises:
        BadKeySetError: not a key set, or nothing usable in it.
    """
    try:
        raw_keys = msgspec.json.decode(body, type=_Jwks).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadKeySetError("not a JSON Web Key Set") from None
    keys = tuple(key for raw in raw_keys[:MAX_KEYS] if (key := _key(raw)) is not None)
    if not keys:
        raise BadKeySetError("the key set has no key for checking signatures")
    return KeySet(keys)


def _key(raw: msgspec.Raw) -> VerificationKey | None:
    try:
        described = msgspec.json.decode(raw, type=_Jwk)
        algorithms = ALGORITHMS[described.kty, described.crv]
        if described.use not in (None, "sig"):
            return None
        if described.key_ops is not None and "verify" not in described.key_ops:
            return None
        if described.alg is not None:
            algorithms = tuple(name for name in algorithms if name == described.alg)
        if not algorithms:
            return None
        values = msgspec.json.decode(raw, type=dict[str, object])
        if "d" in values:  # a private key has no business in a published set
            return None
        key = jwt.PyJWK(values, algorithm=algorithms[0])
    except (msgspec.MsgspecError, RecursionError, KeyError, ValueError, jwt.PyJWTError):
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < MIN_RSA_BITS:
        return None
    return VerificationKey(described.kid, algorithms, key)
