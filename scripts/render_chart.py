"""Renders the Helm chart's kept output, and the kustomize base from it.

Needs ``helm`` on the PATH. What it writes is checked by tests/kubernetes, which need none: the kept
output tells of which chart it is, so it can't be forgotten.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "sentinel-extproc"
CASES = ROOT / "deploy" / "helm" / "cases"
"""Values to render with, and what came of it: ``NAME.values.yaml``, ``NAME.rendered.yaml``."""

OBSERVABILITY = ROOT / "deploy" / "observability"
SHIPPED = {name: CHART / "files" / name for name in ("rules.yaml", "dashboard.json")}
"""Files of that folder, and their copies in the chart, which can't reach outside itself."""

BASE = ROOT / "deploy" / "kustomize" / "base"
BASE_CASE = "shared"

RELEASE, NAMESPACE, KUBERNETES = "sentinel-extproc", "sentinel", "1.34.0"
_HELMS_OWN = ("app.kubernetes.io/managed-by", "helm.sh/chart")


def fingerprint(values: Path) -> str:
    """Of the chart and one file of values."""
    digest = hashlib.sha256(values.read_bytes())
    for path in sorted(p for p in CHART.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(CHART)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def head(values: Path) -> str:
    """First lines of a kept output."""
    return (
        f"# helm template {RELEASE} with {values.name}; `make examples` writes it again.\n"
        f"# Of chart and values {fingerprint(values)}\n"
    )


def rendered(values: Path, *, helm: str = "helm") -> list[dict[str, Any]]:
    """What the chart makes of these values, by kind and name."""
    command = [
        *(helm, "template", RELEASE, str(CHART), "--namespace", NAMESPACE),
        *("--kube-version", KUBERNETES, "--values", str(values)),
    ]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    found = [document for document in yaml.safe_load_all(done.stdout) if document]
    return sorted(found, key=lambda d: (d["kind"], d["metadata"]["name"]))


def dump(documents: list[dict[str, Any]]) -> str:
    """YAML that doesn't depend on helm's version."""
    texts = [yaml.safe_dump(document, sort_keys=True, width=100) for document in documents]
    return "---\n".join(texts)


def kustomize_base(documents: list[dict[str, Any]]) -> dict[str, str]:
    """The base's files: the chart's output, less what kustomize does by itself."""
    config: dict[str, str] = {}
    kept = []
    for document in documents:
        if document["kind"] == "ConfigMap":
            config = document["data"]
            continue
        kept.append(_plain(document))
    names = sorted(config)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": ["resources.yaml"],
        "configMapGenerator": [{"name": RELEASE, "files": names}],
    }
    note = "# Made from the Helm chart's defaults by `make examples`; change it in an overlay.\n"
    return {
        "kustomization.yaml": note + yaml.safe_dump(kustomization, sort_keys=False),
        "resources.yaml": note + dump(kept),
        **{name: note + config[name] for name in names},
    }


def _plain(value: Any) -> Any:
    """Without Helm's labels, the namespace, and the checksum that generated names make needless."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _plain(item)
        for key, item in value.items()
        if key not in (*_HELMS_OWN, "checksum/config") and (key, item) != ("namespace", NAMESPACE)
    }


def main() -> int:
    """Write everything; without helm nothing, and a test tells if that was too little."""
    for name, copy in SHIPPED.items():
        copy.write_bytes((OBSERVABILITY / name).read_bytes())
    if shutil.which("helm") is None:
        print("no helm on the PATH: the chart's kept output stays as it is", file=sys.stderr)
        return 0
    for values in sorted(CASES.glob("*.values.yaml")):
        documents = rendered(values)
        out = values.with_name(values.name.replace(".values.", ".rendered."))
        out.write_text(head(values) + dump(documents), encoding="utf-8")
        if values.name == f"{BASE_CASE}.values.yaml":
            BASE.mkdir(parents=True, exist_ok=True)
            for name, text in kustomize_base(documents).items():
                (BASE / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
