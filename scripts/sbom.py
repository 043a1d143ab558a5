"""Writes the bill of materials (CycloneDX 1.6, JSON) of what is shipped. Called by `make sbom`.

cyclonedx-bom reads the environment that tests run in; what requirements/serve.txt doesn't name is
left out, so that the bill tells of the sidecar and not of its tests. Same locks, same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "requirements" / "serve.txt"


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def shipped_names(text: str) -> set[str]:
    """Of a requirements file with one `name==version` an entry."""
    return {normal(line.partition("==")[0]) for line in text.splitlines() if "==" in line}


def only(bill: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The bill without the components that `names` lacks, and without edges to them.

    Raises ValueError if the bill lacks one of the names: it would be no bill of what is shipped.
    """
    kept = [part for part in bill["components"] if normal(part["name"]) in names]
    if missing := names - {normal(part["name"]) for part in kept}:
        raise ValueError(f"not installed here: {', '.join(sorted(missing))}")
    root = bill["metadata"]["component"]["bom-ref"]
    refs = {part["bom-ref"] for part in kept} | {root}
    edges = [
        edge | ({"dependsOn": sorted(refs & set(edge["dependsOn"]))} if "dependsOn" in edge else {})
        for edge in bill["dependencies"]
        if edge["ref"] in refs
    ]
    return bill | {"components": kept, "dependencies": edges}


def main(target: Path) -> None:
    told = subprocess.run(
        [
            *(sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"),
            *("--sv", "1.6", "--pyproject", str(ROOT / "pyproject.toml"), sys.executable),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    bill = only(json.loads(told.stdout), shipped_names(SHIPPED.read_text()))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n")
    print(f"{target}: {len(bill['components'])} components")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
