"""What we ship from others: locks, licences, advisories and the bill of materials."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HASH = "--hash=sha256:" + "0a" * 32


def module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


audit = module("audit")
sbom = module("sbom")


def test_our_own_locks_and_licences_are_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["--offline"]) == 0
    told = capsys.readouterr()
    assert re.search(r"licences: [1-9]\d+ looked at", told.out)
    assert not told.err


def test_a_pinned_and_hashed_entry_is_read() -> None:
    pins, faults = audit.locked(f"# made by make lock\nName_One==1.2 \\\n    {HASH}\n")
    assert (pins, faults) == ({"name-one": "1.2"}, [])


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("name==1.0", "no hash"),
        (f"name>=1.0 {HASH}", "not pinned"),
        (f"name @ https://elsewhere.test/name.whl {HASH}", "address"),
        ("--index-url https://elsewhere.test/simple", "address or an option"),
    ],
)
def test_an_entry_that_anybody_could_replace_is_a_fault(entry: str, said: str) -> None:
    pins, (fault,) = audit.locked(entry + "\n")
    assert not pins
    assert said in fault


def test_what_is_shipped_must_be_what_is_tested() -> None:
    faults = audit.apart({"same": "1", "newer": "2", "alone": "1"}, {"same": "1", "newer": "3"})
    assert [fault.partition(":")[0] for fault in faults] == ["alone", "newer"]


@pytest.mark.parametrize(
    ("licence", "fits"),
    [
        ("MIT", True),
        ("Apache-2.0 AND BSD-2-Clause", True),
        ("Mozilla Public License 2.0 (MPL 2.0)", True),
        ("GNU Affero General Public License v3", False),
        ("MIT AND GPL-3.0-only", False),
        ("LGPL-2.1", False),
        ("UNKNOWN", False),
    ],
)
def test_licences(licence: str, fits: bool) -> None:
    row = {"Name": "name", "Version": "1", "License": licence}
    assert (audit.refused([row]) == []) is fits


REPORT = {
    "dependencies": [
        {"name": "fine", "version": "1", "vulns": []},
        {"name": "bad", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]},
        {"name": "unseen", "skip_reason": "not found"},
    ]
}


def test_a_package_that_was_skipped_is_not_called_safe() -> None:
    told = audit.read_advisories(REPORT)
    assert (told.asked, told.unanswered) == (3, 1)
    assert told.vulnerable == ("bad 1: CVE-1, mended in 2",)


@pytest.mark.parametrize(
    ("known", "code"),
    [
        (lambda: None, 3),
        (lambda: audit.Advisories(3, 3, ()), 3),
        (lambda: audit.Advisories(3, 1, ()), 3),
        (lambda: audit.Advisories(3, 0, ()), 0),
        (lambda: audit.Advisories(3, 0, ("bad 1: CVE-1",)), 1),
        (lambda: audit.Advisories(3, 1, ("bad 1: CVE-1",)), 1),
    ],
)
def test_the_exit_code_tells_unknown_from_well(
    known: Callable[[], Any], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins, _ = audit.locked((ROOT / "requirements" / "serve.txt").read_text())
    rows = [{"Name": name, "Version": pins[name], "License": "MIT"} for name in pins]
    monkeypatch.setattr(audit, "licences", lambda _names: rows)
    monkeypatch.setattr(audit, "advisories", known)
    assert audit.main([]) == code


def test_the_bill_names_what_is_shipped_and_nothing_else(tmp_path: Path) -> None:
    written = tmp_path / "made" / "sbom.json"
    subprocess.run([sys.executable, ROOT / "scripts" / "sbom.py", written], check=True, timeout=120)
    bill = json.loads(written.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "sentinel-extproc"
    pins, _ = audit.locked((ROOT / "requirements" / "serve.txt").read_text())
    assert {sbom.normal(part["name"]): part["version"] for part in bill["components"]} == {
        sbom.normal(name): version for name, version in pins.items()
    }
    # These carry the text of theirs and declare no name for it.
    undeclared = {part["name"] for part in bill["components"] if not part.get("licenses")}
    assert undeclared <= {"protobuf", "tiktoken"}
    refs = {part["bom-ref"] for part in bill["components"]} | {"root-component"}
    assert {ref for edge in bill["dependencies"] for ref in edge.get("dependsOn", ())} <= refs
    assert str(ROOT) not in written.read_text()
    assert "timestamp" not in bill["metadata"]  # same locks, same bytes


def test_a_bill_that_would_lack_something_is_not_written() -> None:
    bill = {
        "metadata": {"component": {"bom-ref": "root"}},
        "components": [{"name": "one", "bom-ref": "one==1"}],
        "dependencies": [],
    }
    with pytest.raises(ValueError, match="two"):
        sbom.only(bill, {"one", "two"})
