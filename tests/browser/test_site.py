"""The documentation's site in a browser, from a folder: no server, no network."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.docs.built_site import build


@pytest.fixture(scope="module")
def site() -> str:
    return build()[0].as_uri()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def test_it_is_searched_and_read_without_a_network(site: str, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site}/index.html")
    page.get_by_placeholder("Search").first.fill("insufficient_quota")
    page.keyboard.press("Enter")
    found = page.locator("ul.search a", has_text="Failures")
    expect(found.first).to_be_visible(timeout=30_000)
    found.first.click()
    expect(page.get_by_role("heading", name="Failures")).to_be_visible(timeout=30_000)
    assert asked
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


@pytest.mark.parametrize("name", ["index", "limits", "failures", "attach/doctor"])
def test_nothing_is_wider_than_a_phone(site: str, page: Page, name: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{site}/{name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for picture in page.locator("article img").all():
        expect(picture).to_have_attribute("alt", re.compile(".{20,}"))
