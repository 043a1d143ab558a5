"""A load test's report page in a real browser: drawn, whole, and safe whatever names it shows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from sentinel_extproc.loadtest.histogram import Histogram
from sentinel_extproc.loadtest.outcome import Outcome, Result
from sentinel_extproc.loadtest.page import page
from sentinel_extproc.loadtest.report import Generator, Times, make_report
from sentinel_extproc.loadtest.scenario import Kind, Load, Scenario, Users
from sentinel_extproc.loadtest.tally import Tally
from sentinel_extproc.loadtest.thresholds import parse

from .conftest import HOSTILE

NAMES = ("chat, streamed", HOSTILE[:60])


@pytest.fixture(scope="module")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scenario = Scenario(
        target="http://127.0.0.1:8080/<script>alert(1)</script>",
        users=Users(token="a-secret-token"),
        load=Load(model="open", rate=40, duration=60),
        mix=tuple(Kind(name=name, headers={"x-key": "a-secret-header"}) for name in NAMES),
    )
    tally, dice, delay = Tally(NAMES, sending_s=60, longest_s=90), random.Random(4), Histogram()
    for n in range(2_000):
        at, first, gaps = n * 0.03, dice.lognormvariate(-2.5, 0.7), Histogram()
        for _ in range(5):
            gaps.add(dice.lognormvariate(-4.5, 0.5))
        result = dice.choices(
            [Result.OK, Result.REFUSED, Result.FAILED, Result.LEFT], [90, 5, 1, 3]
        )
        tally.sending(at)
        tally.ended(
            Outcome(
                kind=dice.choice(NAMES),
                result=result[0],
                due_s=at,
                sent_s=at + 0.001,
                ended_s=at + first + dice.random(),
                status=200 if result[0] is Result.OK else 429,
                reason=None if result[0] is Result.OK else HOSTILE,
                first_s=at + first,
                gaps=gaps,
                output_tokens=100,
                told=True,
            )
        )
    report = make_report(
        scenario,
        tally,
        users=50,
        started_at="2026-01-01T00:00:00+00:00",
        lasted_s=61.0,
        ended_by="duration",
        generator=Generator(0.9, Times(delay)),
    )
    conditions = [parse(text, NAMES) for text in ("p99_ttft>100ms", "error_rate>50%")]
    file = tmp_path_factory.mktemp("load") / "report.html"
    file.write_bytes(page(report, [one.judge(report) for one in conditions]))
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_it_is_drawn(
    browser: Browser, report_page: Path, width: int, height: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    wrong: list[str] = []
    fetched: list[str] = []
    shown = context.new_page()
    shown.on("console", lambda message: wrong.append(message.text))
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on("dialog", lambda dialog: wrong.append(dialog.message))
    shown.on("request", lambda request: fetched.append(request.url))
    shown.goto(report_page.as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    back = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(244, 246, 249)" if scheme == "light" else "rgb(16, 21, 29)")
    charts = shown.locator("svg.plot")
    assert charts.count() == 6
    for place in range(6):
        box = charts.nth(place).bounding_box()
        assert box is not None
        assert box["width"] > 250
        assert box["height"] > 80
        drawn = charts.nth(place).locator("path.line").first.evaluate("it => it.getTotalLength()")
        assert drawn > 100
    assert shown.get_by_text("The load generator used 90% of a core").count() == 1
    assert fetched == [report_page.as_uri()]
    assert not wrong
    context.close()


def test_it_can_be_read_without_a_mouse_and_without_pictures(
    browser: Browser, report_page: Path
) -> None:
    context = browser.new_context()
    shown = context.new_page()
    shown.goto(report_page.as_uri())
    chart = shown.get_by_role("img", name="First token, ms")
    assert chart.count() == 1
    table = shown.get_by_role("table", name="First token, ms")
    assert not table.is_visible()
    shown.locator("figure", has=chart).locator("summary").focus()
    shown.keyboard.press("Enter")
    assert table.is_visible()
    assert table.locator("tbody tr").count() > 50
    assert shown.locator("main h1").count() == 1
    verdicts = shown.get_by_role("table", name="Conditions").locator("tbody tr")
    assert [verdicts.nth(n).locator("th").inner_text() for n in (0, 1)] == ["failed", "held"]
    context.close()


def test_no_secret_and_no_foreign_element_is_in_it(browser: Browser, report_page: Path) -> None:
    content = report_page.read_text()
    assert "a-secret" not in content
    context = browser.new_context()
    shown = context.new_page()
    shown.goto(report_page.as_uri())
    assert shown.locator("script, img, iframe, link, object").count() == 0
    # The policy, not our escaping, is what holds here.
    refused = shown.evaluate(
        """() => new Promise(done => {
            document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));
            const made = document.createElement('style');
            made.textContent = 'body { display: none }';
            document.body.append(made);
        })"""
    )
    assert refused == "style-src-elem"
    context.close()
