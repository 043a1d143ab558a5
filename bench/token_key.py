"""What it costs to know a token by its SHA-256, at every request.

    python -m bench.token_key

For tokens of a usual API key's length, of a JWT's, and of the longest that are taken: the key of
the cache in front of Zion, and the whole look-up of a known caller, that key included. Least of
several rounds: other processes only add to it. docs/benchmarks.md has a whole request beside it.
"""

from __future__ import annotations

import asyncio
import hashlib
import timeit

from rich.console import Console
from rich.table import Table

from sentinel_extproc.identity.bearer import MAX_TOKEN_BYTES
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.service import CachedAuthenticator

ROUNDS, CALLS = 20, 5_000
CLAIMS = "eyJleHAiOjQxMDI0NDQ4MDAsInN1YiI6ImFkYSJ9"  # {"exp": 4102444800, "sub": "ada"}
TOKENS = {
    "API key, 51 B": "s" * 51,
    "JWT, 900 B": f"eyJhbGciOiJSUzI1NiJ9.{CLAIMS}.{'s' * 838}",
    "the longest, 8 KiB": "s" * MAX_TOKEN_BYTES,
}


class Source:
    """Vouches for everybody."""

    async def identify(self, token: str) -> Principal:  # noqa: ARG002
        """Somebody."""
        return Principal("ext", "id", "mail@example.com")


def hashing_us(token: str) -> float:
    """Microseconds for one key."""
    took = timeit.repeat(
        lambda: hashlib.sha256(token.encode()).digest(), repeat=ROUNDS, number=CALLS
    )
    return min(took) / CALLS * 1e6


async def known_us(token: str) -> float:
    """Microseconds for authenticating a token that is known and fresh, its key included."""
    authenticator = CachedAuthenticator(Source(), fresh_s=3600.0, jwt_fresh_s=3600.0)
    await authenticator.authenticate(token)
    clock = asyncio.get_running_loop().time
    least = float("inf")
    for _ in range(ROUNDS):
        began = clock()
        for _ in range(CALLS):
            await authenticator.authenticate(token)
        least = min(least, clock() - began)
    await authenticator.aclose()
    return least / CALLS * 1e6


def main() -> None:
    """Measure and print."""
    table = Table("Token", "SHA-256, us", "a known caller, us", "of it the key")
    for name, token in TOKENS.items():
        key, known = hashing_us(token), asyncio.run(known_us(token))
        table.add_row(name, f"{key:.2f}", f"{known:.2f}", f"{key / known:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
