"""Fuzzes one target or all of them, each for a bounded time.

    python tests/fuzz/run.py --seconds 60 [TARGET ...]

By atheris, which is guided by coverage, where it can be imported; else by mutating the corpus.
Each target runs in a process of its own. A find is kept in the corpus, as a case to mend.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
ROOT = HERE.parents[1]
MAX_BYTES = 4096


def kept(target: str) -> list[Path]:
    """The cases of a target."""
    folder = CORPUS / target
    return sorted(folder.iterdir()) if folder.is_dir() else []


def mutated(dice: random.Random, seeds: list[bytes]) -> bytes:
    """A case made of others."""
    data = bytearray(dice.choice(seeds) if seeds else b"")
    for _ in range(dice.randint(1, 6)):
        at, size = dice.randint(0, len(data)), dice.randint(1, 16)
        match dice.randrange(5):
            case 0:
                data[at:at] = dice.randbytes(size)
            case 1:
                del data[at : at + size]
            case 2 if data:
                data[at % len(data)] = dice.choice((0, 0xFF, 0x7F, 0x80, dice.randrange(256)))
            case 3:
                data[at:at] = data[: at % (size + 1)] * dice.randint(1, 4)
            case _:
                other = dice.choice(seeds) if seeds else b""
                data[at:] = other[dice.randint(0, len(other)) :]
    return bytes(data[:MAX_BYTES])


def by_mutation(name: str, seconds: float, seed: int) -> None:
    """Without coverage: cheap, and everywhere."""
    from tests.fuzz.targets import TARGETS

    target, dice = TARGETS[name], random.Random(seed)
    seeds = [path.read_bytes() for path in kept(name)]
    runs, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(dice, seeds)
        try:
            target(data)
        except Exception:
            case = CORPUS / name / f"find-{hashlib.sha256(data).hexdigest()[:12]}"
            case.parent.mkdir(parents=True, exist_ok=True)
            case.write_bytes(data)
            print(f"{name}: a find after {runs} runs, kept as {case.name} (seed {seed})")
            raise
        runs += 1
    print(f"{name}: {runs} runs by mutation, no find (seed {seed})")


def by_atheris(name: str, seconds: float, seed: int) -> None:
    """Guided by the coverage of our own package."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with atheris.instrument_imports(include=["sentinel_extproc"]):
        from tests.fuzz.targets import TARGETS
    found = CORPUS / name
    found.mkdir(parents=True, exist_ok=True)
    work = ROOT / ".sentinel" / "fuzz" / name
    work.mkdir(parents=True, exist_ok=True)
    atheris.Setup(
        [
            *("fuzz", str(work), str(found), f"-max_total_time={int(seconds)}", f"-seed={seed}"),
            *(f"-max_len={MAX_BYTES}", f"-artifact_prefix={found}/find-", "-print_final_stats=1"),
            "-rss_limit_mb=2048",
        ],
        TARGETS[name],
    )
    atheris.Fuzz()


def main() -> int:
    """See the module."""
    sys.path.insert(0, str(ROOT))
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("targets", nargs="*")
    options.add_argument("--seconds", type=float, default=60.0, help="for each target")
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options.add_argument("--here", action="store_true", help="in this process")
    chosen = options.parse_args()
    guided = importlib.util.find_spec("atheris") is not None
    if chosen.here:
        (name,) = chosen.targets
        (by_atheris if guided else by_mutation)(name, chosen.seconds, chosen.seed)
        return 0
    if guided:
        print("guided by atheris")
    else:
        print("atheris isn't installed (pip install atheris): mutating the corpus without guidance")
    from tests.fuzz.targets import TARGETS

    failed = []
    for name in chosen.targets or TARGETS:
        arguments = ["--here", "--seconds", str(chosen.seconds), "--seed", str(chosen.seed), name]
        if subprocess.run([sys.executable, __file__, *arguments], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"finds in: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
