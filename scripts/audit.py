"""Checks what we ship from others: locks, licences, known vulnerabilities. Called by `make audit`.

Exit code: 0 all is well; 1 something is wrong; 3 nothing is wrong with what could be looked at, but
the advisories could not be (no database within reach). `--offline` leaves the advisories out.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "requirements" / "serve.txt"
EVERYTHING = ROOT / "requirements" / "dev.txt"

# Those that ask for no more than their text and, MPL, the source of their own files if changed.
ALLOWED = ("MIT", "BSD", "Apache", "ISC", "PSF", "CNRI-Python", "MPL", "Mozilla Public License")
# Words of licences that reach further: an expression with an allowed name must not hide one.
REFUSED = re.compile(r"\bA?L?GPL\b|Affero|SSPL|\bBUSL\b|Commons Clause|Proprietary", re.IGNORECASE)

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


@dataclass(frozen=True)
class Advisories:
    """What the advisory database told: of how many packages, and what is known of them."""

    asked: int
    unanswered: int
    vulnerable: tuple[str, ...]


def locked(text: str) -> tuple[dict[str, str], list[str]]:
    """Name -> version of a requirements file, and what is wrong with the file.

    Every entry must be pinned by `==` and at least one SHA-256, and no line may carry an address.
    """
    pins: dict[str, str] = {}
    faults: list[str] = []
    joined = text.replace("\\\n", " ")
    for number, line in enumerate(joined.splitlines(), 1):
        entry = line.partition(" #")[0].strip()
        if not entry or entry.startswith("#"):
            continue
        found = _PIN.match(entry)
        if "://" in entry or entry.startswith("-"):
            faults.append(f"entry {number} has an address or an option: {entry[:60]}")
        elif found is None:
            faults.append(f"entry {number} is not pinned: {entry[:60]}")
        elif not _HASH.search(entry):
            faults.append(f"{found['name']} has no hash")
        else:
            pins[found["name"].lower().replace("_", "-")] = found["version"]
    return pins, faults


def apart(shipped: Mapping[str, str], everything: Mapping[str, str]) -> list[str]:
    """What the two locks disagree on: tests must run with the versions that are shipped."""
    return [
        f"{name}: {version} is shipped, {everything.get(name, 'nothing')} is tested"
        for name, version in sorted(shipped.items())
        if everything.get(name) != version
    ]


def refused(licences: Sequence[Mapping[str, str]]) -> list[str]:
    """Packages whose licence is unknown or not one of ours, of pip-licenses' rows."""
    found = []
    for row in licences:
        licence = row["License"]
        if REFUSED.search(licence) or not any(name in licence for name in ALLOWED):
            found.append(f"{row['Name']} {row['Version']}: {licence[:80]}")
    return found


def read_advisories(report: Mapping[str, Any]) -> Advisories:
    """Of pip-audit's JSON, which says «none known» of what it skipped: that is unanswered here."""
    rows = report["dependencies"]
    vulnerable = tuple(
        f"{row['name']} {row['version']}: {found['id']}"
        + (f", mended in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "")
        for row in rows
        for found in row.get("vulns", ())
    )
    return Advisories(len(rows), sum("skip_reason" in row for row in rows), vulnerable)


def licences(names: Sequence[str]) -> list[dict[str, str]]:
    """pip-licenses' rows for packages installed here."""
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "piplicenses",
            "--from=mixed",
            "--with-system",
            "--format=json",
            "--packages",
            *names,
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    rows: list[dict[str, str]] = json.loads(told.stdout)
    return rows


def advisories() -> Advisories | None:
    """What is known of the shipped packages; None if the database can't be asked."""
    told = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"),
            *("--progress-spinner=off", "--format=json", f"--requirement={SHIPPED}"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    try:
        return read_advisories(json.loads(told.stdout))
    except json.JSONDecodeError:
        sys.stderr.write(told.stderr[-2000:])
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offline", action="store_true", help="leave the advisories out")
    offline = parser.parse_args(arguments).offline
    shipped, faults = locked(SHIPPED.read_text())
    everything, more = locked(EVERYTHING.read_text())
    faults += more + apart(shipped, everything)
    print(f"locks: {len(shipped)} packages shipped, {len(everything)} in all")

    rows = licences(sorted(shipped))
    missing = shipped.keys() - {row["Name"].lower().replace("_", "-") for row in rows}
    faults += [f"{name} is not installed: its licence is unknown" for name in sorted(missing)]
    faults += refused(rows)
    print(f"licences: {len(rows)} looked at")

    unknown = False
    if offline:
        print("advisories: not asked")
    elif (told := advisories()) is None or told.unanswered == told.asked:
        unknown = True
        print("advisories: NOT AUDITED, no database within reach", file=sys.stderr)
    else:
        faults += told.vulnerable
        unknown = told.unanswered > 0
        print(f"advisories: {told.asked - told.unanswered} of {told.asked} packages looked up")
    for fault in faults:
        print(f"wrong: {fault}", file=sys.stderr)
    return 1 if faults else 3 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
