"""The live page in a real browser: drawn, updated, safe, and of use without a mouse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, expect

from sentinel_extproc.admin.control import User

from .conftest import HOSTILE, TOKEN, Port

SIZES = {"desk": (1280, 900), "phone": (390, 844)}
AT_LEAST_KIB = 20
WITHIN_MS = 20_000

expect.set_options(timeout=WITHIN_MS)


class Watched:
    """A page, and everything in it that went wrong."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.wrong: list[str] = []
        self.foreign: list[str] = []
        # What a test brings about on purpose: Chromium tells of it when it likes, often later.
        self.meant: tuple[str, ...] = ()
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WITHIN_MS)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", self._asked)
        self.page.on("console", self._said)
        self.page.on(
            "request",
            lambda sent: None if sent.url.startswith(url) else self.foreign.append(sent.url),
        )

    def _asked(self, dialog: Dialog) -> None:
        self.wrong.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _said(self, message: ConsoleMessage) -> None:
        meant = any(words in message.text for words in self.meant)
        if message.type in ("error", "warning") and not meant:
            self.wrong.append(message.text)

    def log_in(self) -> Page:
        """To the live page, updated at least once."""
        page = self.page
        page.goto(self.url)
        page.get_by_label("Admin token").fill(TOKEN)
        page.keyboard.press("Enter")
        self.updated()
        return page

    def updated(self, times: int = 1) -> None:
        self.page.wait_for_function(
            "times => Number(document.querySelector('main').dataset.updates || 0) >= times",
            arg=times,
        )


@pytest.fixture
def watched(browser: Browser, port: Port) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    made = Watched(context, port.url)
    yield made
    context.close()
    assert not made.wrong
    assert not made.foreign


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_it_is_drawn(browser: Browser, port: Port, tmp_path: Path, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    watched = Watched(context, port.url)
    page = watched.log_in()
    picture = page.screenshot(path=tmp_path / f"{size}-{scheme}.png", full_page=True)
    assert len(picture) > AT_LEAST_KIB * 1024
    # Nothing is wider than the screen, but for tables, which scroll by themselves.
    assert page.evaluate("document.documentElement.scrollWidth") == width
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(244, 246, 249)", "dark": "rgb(16, 21, 29)"}[scheme]
    for chart in page.locator("figure.chart svg").all():
        box = chart.bounding_box()
        assert box is not None
        assert 0 < box["width"] <= width
        expect(chart.locator("polyline")).to_have_count(2)
    # Every text has contrast enough, whatever it stands on (WCAG AA).
    assert page.evaluate(CONTRASTS) == []
    context.close()
    assert not watched.wrong


def test_a_link_fills_in_the_token_and_leaves_no_trace(watched: Watched) -> None:
    page = watched.page
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.goto(f"{watched.url}/#token={TOKEN}")
    expect(page.get_by_label("Admin token")).to_have_value(TOKEN)
    expect(page.get_by_role("button", name="Log in")).to_be_focused()
    assert page.url == f"{watched.url}/login"
    page.keyboard.press("Enter")
    watched.updated()
    # Again, where somebody is logged in already.
    page.goto("about:blank")
    page.goto(f"{watched.url}/#token={TOKEN}")
    watched.updated()
    assert page.url == f"{watched.url}/"
    assert not any(TOKEN in url for url in sent)


CONTRASTS = """() => {
  const parse = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (box) => {
    for (let at = box; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const box of document.querySelectorAll("body *")) {
    const own = [...box.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !box.getClientRects().length || box.closest("svg")) continue;
    const a = light(parse(getComputedStyle(box).color)), b = light(behind(box));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${box.tagName} ${box.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return low;
}"""


def test_it_updates_by_itself_and_can_be_paused(watched: Watched, port: Port) -> None:
    watched.page.clock.install()
    page = watched.log_in()
    expect(page.get_by_role("status")).to_contain_text("Zion, reports: being tried again.")
    port.sidecar.redis = "away"
    try:
        page.clock.run_for(5_000)
        expect(page.get_by_role("status")).to_contain_text("Redis, for limits: away.")
        pause = page.get_by_role("button", name="Pause")
        pause.press("Enter")
        expect(page.get_by_role("button", name="Go on", pressed=True)).to_be_visible()
    finally:
        port.sidecar.redis = "up"
    updates = page.locator("main").get_attribute("data-updates")
    page.clock.run_for(60_000)
    expect(page.get_by_role("main")).to_have_attribute("data-updates", updates or "")
    page.get_by_role("button", name="Go on").press("Enter")
    page.clock.run_for(5_000)
    expect(page.get_by_role("status")).not_to_contain_text("Redis")


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_a_worker_that_keeps_failing_is_told_in_words(
    browser: Browser, port: Port, size: str, scheme: str
) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    watched = Watched(context, port.url)
    watched.page.clock.install()
    page = watched.log_in()
    state, workers = page.locator("#rows-states tr").first, page.locator("#rows-workers tr")
    expect(state).to_contain_text("all 2 serve")
    expect(workers.nth(1)).to_contain_text("serving")
    expect(page.get_by_role("status")).to_have_attribute("data-mood", "warn")
    port.sidecar.failing = True
    try:
        page.clock.run_for(5_000)
        status = page.get_by_role("status")
        expect(status).to_contain_text("Workers: worker 1 keeps failing.")
        expect(status).to_have_attribute("data-mood", "bad")
        expect(state).to_contain_text("failed 6 times in a row; 1 of 2 serve; 6 restarts")
        expect(workers.nth(1)).to_contain_text("keeps failing (down)")
        assert page.evaluate(CONTRASTS) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        # As the server draws it, without the script.
        html = page.request.get(port.url).text()
        assert 'data-mood="bad">keeps failing (down)</span>' in html
        # What is wrong is read without scrolling sideways, on a phone too.
        box = page.locator(".scroll:has(#rows-states)")
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth")
    finally:
        port.sidecar.failing = False
    context.close()
    assert not watched.wrong


def test_why_nothing_can_be_shown_is_told(watched: Watched, port: Port) -> None:
    watched.meant = ("503",)
    watched.page.clock.install()
    page = watched.log_in()
    port.sidecar.fault = "No worker answers: workers 0, 1 keep failing."
    try:
        page.clock.run_for(5_000)
        expect(page.get_by_role("status")).to_have_text(
            f"{port.sidecar.fault} What is shown is old. Trying again."
        )
        answer = page.reload()
        assert answer is not None
        assert answer.status == 503
        expect(page.get_by_role("alert")).to_have_text(port.sidecar.fault)
    finally:
        port.sidecar.fault = ""
    page.get_by_role("link", name="Back to the live page").click()
    watched.updated()


def test_hostile_names_are_only_text(watched: Watched) -> None:
    page = watched.log_in()
    shown = HOSTILE.replace("\u202e", "\\u202e")
    expect(page.locator("#rows-users a", has_text="onerror")).to_have_text(shown)
    expect(page.locator("#rows-running a", has_text="onerror")).to_have_text(shown)
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    # The link leads to that very user, as drawn by the server and by the script alike.
    page.locator("#rows-users a", has_text="onerror").click()
    expect(page.get_by_label("User (external id)")).to_have_value(HOSTILE)
    watched.updated()


def test_the_policy_stops_what_would_get_in(watched: Watched) -> None:
    page = watched.log_in()
    watched.meant = ("Policy", "Trusted")
    with page.expect_console_message(
        lambda said: said.type == "error" and any(words in said.text for words in watched.meant)
    ):
        page.evaluate(
            """() => {
              const made = document.createElement("script");
              try { made.textContent = "document.title = 'in'"; } catch {}
              try { document.body.append(made); } catch {}
              const image = "<img src=x onerror=1>";
              try { document.body.insertAdjacentHTML("beforeend", image); } catch {}
            }"""
        )
    expect(page).to_have_title("Live · Sentinel")
    assert page.locator("img").count() == 0


def test_limits_are_looked_up_and_orders_confirmed_without_a_mouse(
    watched: Watched, port: Port
) -> None:
    page = watched.log_in()
    page.get_by_label("User (external id)").focus()
    page.keyboard.type("ada")
    page.keyboard.press("Enter")
    limits = page.get_by_role("region", name="Limits of ada")
    expect(limits.get_by_role("cell", name="431")).to_be_visible()
    asked = port.sidecar.asked[-1]
    assert (asked.user, asked.path) == ("ada", "/v1/chat/completions")

    page.get_by_label("External id or SHA-256").fill("ada")
    page.get_by_label("Revoke:").press("Space")
    page.get_by_label("End running answers too").press("Space")
    page.get_by_role("button", name="Continue").press("Enter")
    expect(page.get_by_role("heading", name="Revoke user “ada”?")).to_be_focused()
    assert port.sidecar.calls == []
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Yes, do it")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Ended: 2 running answers.")
    assert port.sidecar.calls == [("revoke", User("ada"), True)]


def test_a_screen_reader_finds_its_way(watched: Watched) -> None:
    page = watched.log_in()
    for landmark in ("banner", "main"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    for title in ("Traffic and tokens", "Top users", "Running streams", "Limits of a user"):
        expect(page.get_by_role("region", name=title).first).to_be_visible()
    chart = page.get_by_role("img", name="Tokens per second over 15 minutes. Input: now ")
    expect(chart).to_have_count(1)
    page.get_by_text("The same as a table").press("Enter")
    table = page.get_by_role("table", name="Requests and tokens per minute")
    expect(table.get_by_role("row")).to_have_count(15)  # a header, and 14 whole minutes
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input:not([type=hidden]), select, button, meter")]
          .filter((box) => !(box.labels?.length || box.ariaLabel || box.textContent.trim()))
          .map((box) => box.outerHTML)"""
    )
    assert nameless == []
    assert len(page.locator("h1").all()) == 1


def test_who_is_logged_out_is_sent_to_the_door(watched: Watched) -> None:
    page = watched.log_in()
    cookie = next(one for one in page.context.cookies() if one.get("name") == "sentinel_session")
    assert cookie.get("httpOnly") is True
    assert cookie.get("sameSite") == "Strict"
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Admin token")).to_be_focused()
    page.goto(watched.url)
    expect(page).to_have_title("Log in · Sentinel")


def test_a_page_of_another_port_can_not_use_the_session(
    watched: Watched, port: Port, browser: Browser
) -> None:
    page = watched.log_in()
    before = list(port.sidecar.calls)
    # Another port of the same host is the same site, so the cookie goes along.
    other = port.url.replace(port.url.rpartition(":")[2], "9")
    form = (
        f'<form method="post" action="{port.url}/act"><input name="action" value="invalidate">'
        '<input name="kind" value="user"><input name="target" value="ada">'
        '<input name="confirmed" value="yes"></form>'
    )
    page.route(
        f"{other}/**",
        lambda route: route.fulfill(content_type="text/html", body=form),
    )
    page.goto(f"{other}/evil")
    watched.meant = ("403 (Forbidden)",)
    with page.expect_response(f"{port.url}/act") as answered:
        page.evaluate("document.forms[0].submit()")
    assert answered.value.status == 403
    assert "sentinel_session=" in answered.value.request.all_headers().get("cookie", "")
    assert port.sidecar.calls == before
    watched.foreign.clear()


def test_without_its_script_it_is_a_page_all_the_same(browser: Browser, port: Port) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(port.url)
    page.get_by_label("Admin token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("cell", name="gpt-4o-mini")).to_be_visible()
    context.close()
