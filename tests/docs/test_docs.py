"""Documentation that a machine can hold to the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from scripts import draw_pictures

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ELSEWHERE = {"https://www.envoyproxy.io", "https://cel.dev"}
"""Where pages may send readers besides each other; nothing checks that these are there."""
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


@pytest.mark.parametrize(
    ("script", "page"),
    [
        ("document_settings.py", "docs/configuration.md"),
        ("document_findings.py", "docs/attach/doctor.md"),
        ("document_metrics.py", "docs/metrics.md"),
    ],
)
def test_written_pages_are_current(script: str, page: str) -> None:
    written = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import runpy; print(runpy.run_path('scripts/{script}')['page'](), end='')",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (ROOT / page).read_text() == written, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if "://" in target:
            assert target in ELSEWHERE, "pages stand by themselves; list it if it must be"
            continue
        if target.startswith("#"):
            continue
        assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_that_are_named_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)", page.read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_who_installs_by_a_page_can_do_what_it_goes_on_with(page: Path) -> None:
    text = page.read_text("utf-8")
    installed = re.findall(r"^pip install (.*?)(?: *#.*)?$", text, re.MULTILINE)
    if installed and "sentinel-extproc render" in text:
        assert installed == ["'.[render]'"]


def test_pictures_are_current_and_tell_those_who_cannot_see_them() -> None:
    folder = ROOT / "docs" / "pictures"
    drawn = draw_pictures.drawn()
    assert {path.name for path in folder.iterdir()} == set(drawn)
    for name, text in drawn.items():
        assert (folder / name).read_text("utf-8") == text, "run `make docs`"
        root = ET.fromstring(text)  # noqa: S314 - our own
        names = {element.get("id"): element.text for element in root.iter() if element.get("id")}
        assert root.get("role") == "img"
        assert all(names[which] for which in str(root.get("aria-labelledby")).split())
        shown = [page for page in PAGES if f"pictures/{name}" in page.read_text("utf-8")]
        assert shown, name


def test_each_of_the_predecessors_faults_has_its_proof() -> None:
    page = (ROOT / "docs" / "predecessor.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", page, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 31))
    for number, proof in rows:
        paths = re.findall(r"`((?:tests|bench)/[\w/]+\.py)`", proof)
        assert paths, number
        for path in paths:
            assert (ROOT / path).exists(), path


def test_metrics_and_events_that_the_page_on_observability_names_exist() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    listed = set(
        re.findall(r"^\| `(sentinel_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.M)
    )
    assert set(re.findall(r"`(sentinel_[a-z_]+)", page)) <= listed
    logs = (ROOT / "sentinel_extproc" / "telemetry" / "fact_logs.py").read_text()
    events = re.search(r"\| Event \|.*?\n\n", page, re.DOTALL)
    assert events is not None
    for event, level in re.findall(r"^\| `(\w+)` \| (\w+) \|", events[0], re.MULTILINE):
        assert re.search(rf'log\.{level}\(\s*"{event}"', logs), event


def test_every_part_is_on_the_map() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    parts = page.partition("\n## Parts")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", parts.replace("*", "")))
    package = ROOT / "sentinel_extproc"
    there = {path.stem for path in package.iterdir() if path.suffix in ("", ".py")}
    assert {name for name in there - named if not name.endswith("_parts")} <= {
        "__init__",
        "__main__",
        "__pycache__",
    }
