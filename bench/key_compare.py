"""Whether comparing keys tells, by the time that it takes, how much of a guess was right.

    python -m bench.key_compare

Two guesses at each of many random keys, both wrong: nothing of it right, and all but the last
character. Those at one key are tried in random order, so that whatever else goes on falls on both
alike; what counts is the difference of their medians. Where a string happens to lie in memory makes
nanoseconds too, alike for all keys of one process, so that is done in several processes, and the
differences that these found are judged by Student's t: above ``TELLS`` it is no chance. Two
comparisons that do tell show that it would be seen: a loop that ends at the first difference, and
Python's ``==`` of long keys.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import random
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from sentinel_extproc.admin.guard import Access
from sentinel_extproc.admin.page.session import Session, Sessions
from sentinel_extproc.errors import SentinelError, Unauthenticated
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.service import CachedAuthenticator
from sentinel_extproc.identity.static_keys import StaticKeys, digest, new_key

ROUNDS = 8
"""Processes."""

KEYS = 100
SAMPLES = 60
"""Of each guess at a key."""

CALLS = 5
"""Timed as one, so that the clock's own steps don't hide what they differ by."""

ONE = "--one-round"

OURS = 4
"""Of what is compared, the first."""

TELLS = 5.41
"""By chance, of eight processes, one time in a thousand."""

CONFIDENT = 3.5
"""Standard errors on either side: 99 %, of eight."""

Check = Callable[[str], object]
MakeCheck = Callable[[str], Check]
"""From the key."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What one comparison told.

    Attributes:
        took_ns: one of it, with nothing right.
        more_ns: by how much it took longer with a guess of which more was right.
        within_ns: half of the 99 % confidence interval of that.
        t: Student's, of the same.
    """

    name: str
    took_ns: float
    more_ns: float
    within_ns: float
    t: float

    @property
    def tells(self) -> bool:
        """Whether the difference is no chance."""
        return abs(self.t) > TELLS


def guesses(key: str) -> list[str]:
    """Wrong ones, of which nothing, and all but the end is right."""

    def wrong_from(at: int) -> str:
        return key[:at] + "".join(chr(ord(c) ^ 1) for c in key[at:])

    return [wrong_from(0), wrong_from(len(key) - 1)]


def timed(check: Check, key: str, *, samples: int, order: random.Random) -> tuple[float, float]:
    """Nanoseconds of each of the two guesses: medians."""
    # In memory in random order too.
    wrong = guesses(key)
    for number in order.sample(range(len(wrong)), len(wrong)):
        wrong[number] = wrong[number].encode().decode()
    numbers = [number for number in range(len(wrong)) for _ in range(samples)]
    order.shuffle(numbers)
    times: list[list[float]] = [[] for _ in wrong]
    clock = time.perf_counter_ns
    for number in numbers:
        guess = wrong[number]
        began = clock()
        for _ in range(CALLS):
            check(guess)
        times[number].append((clock() - began) / CALLS)
    return statistics.median(times[0]), statistics.median(times[1])


def tried(make: MakeCheck, keys: Sequence[str], *, samples: int) -> tuple[float, float]:
    """What a comparison takes with nothing right, and how much more with nearly all, in this
    process: means over the keys."""
    order = random.Random()
    gc.collect()
    gc.disable()
    try:
        medians = [timed(make(key), key, samples=samples, order=order) for key in keys]
    finally:
        gc.enable()
    return (
        statistics.fmean(nothing for nothing, _ in medians),
        statistics.fmean(nearly - nothing for nothing, nearly in medians),
    )


def judged(name: str, rounds: Sequence[tuple[float, float]]) -> Compared:
    """Of what each process found."""
    more = [found for _, found in rounds]
    mean, error = statistics.fmean(more), statistics.stdev(more) / math.sqrt(len(more))
    took = statistics.fmean(nothing for nothing, _ in rounds)
    return Compared(name, took, mean, CONFIDENT * error, mean / error)


def byte_by_byte(key: str) -> Check:
    """A comparison that tells."""

    def check(guess: str) -> bool:
        return all(ours == theirs for ours, theirs in zip(key, guess, strict=True))

    return check


def admin_token(token: str) -> Check:
    """The control API's."""
    access = Access(token=token, trusted_peers=False)

    def check(guess: str) -> None:
        try:
            access.check([b"Bearer " + guess.encode()])
        except Unauthenticated:
            return
        raise AssertionError("a wrong one was taken")

    return check


def static_key(key: str) -> Check:
    """A key of the table, by its digest."""
    keys = StaticKeys({digest(key): Principal("ext", "id", "mail@example.com")})
    return _refused(keys.identify)


def cached_token(token: str) -> Check:
    """A token that is known to the cache, by its digest; the guesses are refused by memory."""

    class Source:
        async def identify(self, given: str) -> Principal:
            if given != token:
                raise Unauthenticated("The API key is not valid.")
            return Principal("ext", "id", "mail@example.com")

    authenticator = CachedAuthenticator(Source(), negative_s=3600.0)

    async def known() -> None:
        await authenticator.authenticate(token)
        # In any order, since the last one refused lies elsewhere than the first.
        for guess in random.sample(guesses(token), 2):
            try:
                await authenticator.authenticate(guess)
            except SentinelError:
                continue

    asyncio.run(known())
    return _refused(authenticator.authenticate)


def _refused(ask: Callable[[str], object]) -> Check:
    """Without a loop: what is known is answered without waiting."""

    def check(guess: str) -> None:
        try:
            ask(guess).send(None)  # type: ignore[attr-defined]
        except Unauthenticated:
            return
        raise AssertionError("a wrong one was taken")

    return check


def one_round(keys: int = KEYS, samples: int = SAMPLES) -> dict[str, tuple[float, float]]:
    """Ours, then those that show that a telling one is seen."""
    usual = [new_key() for _ in range(keys)]
    long = [secrets.token_urlsafe(6000) for _ in range(keys)]
    sessions = Sessions()
    by_secret = {sessions.csrf(one): one for one in _begun(sessions, keys)}

    def page_secret(secret: str) -> Check:
        return lambda guess: sessions.csrf_matches(by_secret[secret], guess)

    return {
        "admin token": tried(admin_token, usual, samples=samples),
        "the live page's form secret": tried(page_secret, [*by_secret], samples=samples),
        "static key": tried(static_key, usual, samples=samples),
        "token in the cache": tried(cached_token, usual, samples=samples),
        "a loop (tells)": tried(byte_by_byte, usual, samples=samples),
        "== of 8,000 B (tells)": tried(lambda key: key.__eq__, long, samples=samples),
    }


def _begun(sessions: Sessions, count: int) -> list[Session]:
    begun = (sessions.read(sessions.begin()) for _ in range(count))
    return [one for one in begun if one is not None]


def _elsewhere() -> dict[str, tuple[float, float]]:
    """A round in a process of its own."""
    command = [sys.executable, "-m", "bench.key_compare", ONE]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, tuple[float, float]] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 if one of ours tells."""
    if ONE in arguments:
        print(json.dumps(one_round()))
        return 0
    rounds = [_elsewhere() for _ in range(ROUNDS)]
    table = Table("Comparison", "takes, ns", "more if nearly right, ns", "99 %, ns", "t", "tells")
    found = [judged(name, [each[name] for each in rounds]) for name in rounds[0]]
    for one in found:
        table.add_row(
            one.name,
            f"{one.took_ns:,.0f}",
            f"{one.more_ns:+.2f}",
            f"± {one.within_ns:.2f}",
            f"{one.t:+.1f}",
            "yes" if one.tells else "no",
        )
    Console().print(table)
    return int(any(one.tells for one in found[:OURS]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
