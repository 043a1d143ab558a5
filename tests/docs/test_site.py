"""The pages build into a site: links and anchors lead somewhere, nothing comes from outside."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.built_site import build

ROOT = Path(__file__).parents[2]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
_SOURCES = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


@pytest.fixture(scope="module")
def site() -> Path:
    folder, result = build()
    assert result.returncode == 0, result.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser fetches for a page by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get(_SOURCES.get(tag, ""))
        fetched = tag != "link" or given.get("rel") not in ("canonical", "next", "prev", "author")
        if address and fetched:
            self.addresses.append(address)


def test_every_page_is_there_and_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in (ROOT / "docs").glob("**/*.md"):
        built = site / page.relative_to(ROOT / "docs").with_suffix(".html")
        loaded = Loaded()
        loaded.feed(built.read_text("utf-8"))
        assert len(loaded.addresses) > 5
        for address in loaded.addresses:
            assert not address.startswith(("http:", "https:", "//")), (page.name, address)
            assert address.startswith("data:") or (built.parent / address.split("?")[0]).exists()
    for sheet in site.glob("_static/**/*.css"):
        fetched = re.findall(r"@import|url\(\s*['\"]?(?:https?:)?//", sheet.read_text("utf-8"))
        assert not fetched, sheet.name


def test_search_has_the_pages_words_in_a_script_of_its_own(site: Path) -> None:
    index = (site / "searchindex.js").read_text("utf-8")
    assert index.startswith("Search.setIndex(")
    assert "getting-started" in index


@pytest.mark.parametrize("name", OUTSIDE)
def test_anchors_in_pages_outside_of_the_site(site: Path, name: str) -> None:
    for target, anchor in re.findall(
        r"\]\(docs/([\w/-]+)\.md(?:#([\w-]+))?\)", (ROOT / name).read_text("utf-8")
    ):
        html = (site / f"{target}.html").read_text("utf-8")
        assert not anchor or f'id="{anchor}"' in html, (target, anchor)


def test_a_dead_anchor_fails_the_build(tmp_path: Path) -> None:
    """The check itself works: a build that overlooks dead links would prove nothing."""
    (tmp_path / "index.md").write_text("# One\n\n[there](#one) [nowhere](#two)\n")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "-c", "docs", tmp_path, tmp_path / "out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode != 0
    assert "two" in built.stderr
    assert "'one'" not in built.stderr
