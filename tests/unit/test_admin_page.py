"""The live page over ASGI: who may see and do what, and that nothing of outside becomes markup."""

from __future__ import annotations

import html.parser
import re
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from sentinel_extproc.admin.control import Effect, Everybody, Target, Token, User
from sentinel_extproc.admin.guard import Access, HostRule
from sentinel_extproc.admin.looking import Question
from sentinel_extproc.admin.pacing import Pacing
from sentinel_extproc.admin.page.cells import Cell, counted, duration, name, number
from sentinel_extproc.admin.page.html import Html, document, el, text
from sentinel_extproc.admin.page.session import MAX_ENDED, Sessions, same_origin
from sentinel_extproc.admin.page.sources import OwnSources
from sentinel_extproc.admin.page.tables import limit_rows
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.admin.throttle import Rate
from sentinel_extproc.errors import Unavailable
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.telemetry.facts import ExchangeFinished, ExchangeRefused
from sentinel_extproc.telemetry.live import STEP_S, Live
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord

TOKEN = "admin-token-0123456789abcdef"
HOST = "127.0.0.1:9180"
ORIGIN = f"http://{HOST}"
HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</td></tr></table><iframe src=javascript:alert(1)>",
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "\u202egnp.exe\u0000\x1b[2J\ud800",
    "{{7*7}} ${7*7} &lt;b&gt;",
]


def finished(user: str, model: str) -> ExchangeFinished:
    record = UsageRecord(
        id="0190",
        occurred_at_ms=1,
        external_id=user,
        email="",
        endpoint="chat.completions",
        model_requested=model,
        model_served=None,
        requests=1,
        usage=TokenUsage(100, 20),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )
    return ExchangeFinished(record, 0)


class Browser:
    """The admin port and a client that keeps cookies, as a browser does."""

    def __init__(
        self,
        *,
        token: str | None = TOKEN,
        trusted_peers: bool = False,
        scheme: str = "http",
        on_socket: bool = False,
        pacing: Pacing | None = None,
    ) -> None:
        self.now = 10_000.0
        self.live = Live(lambda: self.now)
        self.calls: list[tuple[str, Target, bool]] = []
        self.questions: list[Question] = []
        self.fault: Exception | None = None
        self.store = "up"
        self.others: list[Running] = []
        self.sources = OwnSources(
            live=self.live,
            running=lambda most: self.others[:most],
            in_all=lambda: len(self.others),
            status=self.status,
            look_ups=self,
            control=self,
        )
        app = admin_app(
            exposition=lambda _: (b"", "text/plain"),
            checks={},
            status=self.status,
            access=Access(token=token, trusted_peers=trusted_peers),
            hosts=None if on_socket else HostRule(),
            control=self,
            page=self.sources,
            pacing=pacing,
        )
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url=f"{scheme}://{HOST}"
        )

    async def status(self) -> Mapping[str, Any]:
        return {
            "exchanges": {"live": 1, "draining": False},
            "limits": {"store": self.store, "replicas": 1, "pending_settlements": 0},
            "zion": {
                "lookup_breaker": "closed",
                "report_breaker": "closed",
                "own_key": "not refused",
            },
            "outbox": {
                "fill": 0.5,
                "degraded": False,
                "fault": None,
                "undelivered": None,
                "oldest_seconds": None,
            },
            "stream": None,
            "ledger": {"unknown": None},
        }

    async def whoami(self, token: Token) -> dict[str, Any]:
        raise NotImplementedError

    async def limits(self, question: Question) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault
        self.questions.append(question)
        return {
            "limits": [
                {
                    "name": "requests",
                    "unit": "requests",
                    "limit": 100,
                    "remaining": 25,
                    "reset_seconds": 12.0,
                    "shadow": False,
                    "at_once": False,
                }
            ]
        }

    async def revoke(self, target: Target, *, streams: bool) -> Effect:
        if self.fault is not None:
            raise self.fault
        self.calls.append(("revoke", target, streams))
        return Effect(everywhere=True, replicas=2, streams=3 if streams else 0)

    async def invalidate(self, target: Target) -> Effect:
        self.calls.append(("invalidate", target, False))
        return Effect(everywhere=False)

    async def post(self, path: str, origin: str | None = ORIGIN, **form: str) -> httpx.Response:
        headers = {} if origin is None else {"origin": origin}
        return await self.client.post(path, data=form, headers=headers)

    async def log_in(self) -> str:
        """Log in; the secret of forms."""
        answer = await self.post("/login", token=TOKEN)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        return await self.csrf()

    async def csrf(self) -> str:
        page = (await self.client.get("/")).text
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
        assert found is not None
        return found[1]


# Sessions


def test_a_session_is_ours_for_an_hour_and_until_it_ends() -> None:
    now = [1000.0]
    sessions = Sessions(clock=lambda: now[0])
    cookie = sessions.begin()
    session = sessions.read(cookie)
    assert session is not None
    assert TOKEN not in cookie
    assert cookie != sessions.begin()
    now[0] += 3599
    assert sessions.read(cookie) == session
    now[0] += 1
    assert sessions.read(cookie) is None
    again = sessions.begin()
    ended = sessions.read(again)
    assert ended is not None
    sessions.end(ended)
    assert sessions.read(again) is None


@pytest.mark.parametrize("cookie", [None, "", ".", "..", "x.y.z", "9999999999.id.", "\udcff.a.b"])
def test_no_other_cookie_is_a_session(cookie: str | None) -> None:
    assert Sessions().read(cookie) is None


def test_a_cookie_can_not_be_changed_nor_is_it_of_another_process() -> None:
    sessions = Sessions()
    cookie = sessions.begin()
    expires, rest = cookie.split(".", 1)
    assert sessions.read(f"{int(expires) + 1}.{rest}") is None
    assert sessions.read(cookie[:-1] + ("0" if cookie[-1] != "0" else "1")) is None
    assert Sessions().read(cookie) is None


def test_what_forms_carry_is_of_one_session() -> None:
    sessions = Sessions()
    one, two = sessions.read(sessions.begin()), sessions.read(sessions.begin())
    assert one is not None
    assert two is not None
    assert sessions.csrf_matches(one, sessions.csrf(one))
    assert not sessions.csrf_matches(one, sessions.csrf(two))
    assert not sessions.csrf_matches(one, "")
    assert not sessions.csrf_matches(one, "ü\ud800")


def test_more_log_outs_than_can_be_remembered_end_all_sessions() -> None:
    sessions = Sessions()
    first = sessions.begin()
    for _ in range(MAX_ENDED + 1):
        session = sessions.read(sessions.begin())
        assert session is not None
        sessions.end(session)
    assert len(sessions._ended) <= MAX_ENDED
    assert sessions.read(first) is None


@pytest.mark.parametrize(
    ("origin", "same"),
    [
        (ORIGIN, True),
        (f"https://{HOST}", True),  # what ends TLS in front of us keeps the Host
        ("http://127.0.0.1:8080", False),
        ("http://evil.example", False),
        (f"http://{HOST}.evil.example", False),
        (f"ftp://{HOST}", False),
        ("null", False),
        ("", False),
        (None, False),
    ],
)
def test_an_origin_is_host_and_port(origin: str | None, same: bool) -> None:
    assert same_origin(origin=origin, host=HOST) is same
    assert not same_origin(origin=origin, host=None)


# HTML


def test_text_and_attributes_are_escaped_and_html_is_not_escaped_twice() -> None:
    made = el("p", el("b", "<&>"), "\"'", class_='a"b', data_x=None, hidden=True)
    assert made == ('<p class="a&quot;b" hidden><b>&lt;&amp;&gt;</b>&quot;&#x27;</p>')
    assert isinstance(text("<"), Html)
    assert el("input", for_="x", aria_label="y") == '<input for="x" aria-label="y">'
    assert b"?" in document(text(), text("\ud800"))


@pytest.mark.parametrize("tag", ["script", "style"])
def test_nothing_can_be_written_into_a_page_as_code(tag: str) -> None:
    with pytest.raises(ValueError, match="inline"):
        el(tag, "alert(1)")


def test_cells_read_well() -> None:
    assert name(None) == Cell("–")
    assert name("a\u202eb\n") == Cell("a\\u202eb\\n")
    assert len(name("x" * 1000).text) == 80
    assert name("x" * 200, user=True).user == "x" * 200
    assert [number(one).text for one in (None, 1234567, 0.25)] == ["–", "1,234,567", "0.25"]
    assert [duration(one) for one in (None, float("inf"), 0, 119.2, 312, 1800, 7300, 864_000)] == [
        "–", "–", "0 s", "2 min 0 s", "5 min 12 s", "30 min", "2 h 1 min", "10 d",
    ]  # fmt: skip
    assert counted(1, "entry", "entries") == "1 entry"
    assert counted(2000, "entry", "entries") == "2,000 entries"


class Markup(html.parser.HTMLParser):
    """Which elements and attributes a page really has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.said: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.said.append(data)


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_hostile_names_stay_text(hostile: str) -> None:
    browser = Browser()
    browser.live.emit(finished(hostile, hostile))
    browser.live.emit(ExchangeRefused("0190", 429, hostile, None, hostile, hostile))
    browser.now += STEP_S
    browser.others = [Running("0190", 0, hostile, hostile, hostile, True, 40)]
    await browser.log_in()
    asked = {"user": hostile, "model": hostile, "path": hostile, "plan": hostile}
    if "\ud800" in hostile:
        asked = {}
    answer = await browser.client.get("/", params=asked)
    page = Markup(answer.text)
    assert not page.tags & {"img", "iframe", "b", "style"}
    assert answer.text.count("<script ") == answer.text.count("<script") == 1
    assert not [one for one, _ in page.attributes if one.startswith("on")]
    links = [value or "" for one, value in page.attributes if one in ("href", "src", "action")]
    assert all(link.startswith(("/", "#")) for link in links)
    shown = name(hostile).text
    assert shown.isprintable()
    assert page.said.count(shown) >= 4
    # The script gets the same texts, and sets them as text.
    data = (await browser.client.get("/live/data")).json()
    assert data["tables"]["users"][0][0]["text"] == shown
    assert data["tables"]["running"][0][0]["user"] == hostile


# Who may


async def test_nobody_sees_anything_without_logging_in() -> None:
    browser = Browser()
    answer = await browser.client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    answer = await browser.client.get("/live/data")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "not_logged_in")
    for path in ("/act", "/logout"):
        assert (await browser.post(path)).status_code == 401
    browser.client.cookies.set("sentinel_session", "9999999999.forged.00")
    assert (await browser.client.get("/")).status_code == 303
    assert browser.calls == []


async def test_logging_in_and_out() -> None:
    browser = Browser()
    answer = await browser.post("/login", token="wrong-token-0123456789")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert 'role="alert"' in answer.text
    answer = await browser.post("/login", token=TOKEN)
    cookie = answer.headers["set-cookie"].lower()
    for part in ("httponly", "samesite=strict", "path=/", "max-age=3600"):
        assert part in cookie
    assert "secure" not in cookie
    stolen = browser.client.cookies["sentinel_session"]
    csrf = await browser.csrf()
    assert (await browser.post("/logout", csrf=csrf)).headers["location"] == "/login"
    assert "sentinel_session" not in browser.client.cookies
    browser.client.cookies.set("sentinel_session", stolen)
    assert (await browser.client.get("/live/data")).status_code == 401


async def test_who_guesses_tokens_has_to_wait_and_shuts_nobody_out() -> None:
    browser = Browser()
    answers = [await browser.post("/login", token="wrong-token-0123456789") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert answers[-1].headers["retry-after"] == "1"
    assert "Try again in 1 s" in answers[-1].text
    answer = await browser.post("/login", token=TOKEN)
    assert (answer.status_code, "set-cookie" in answer.headers) == (303, True)
    answer = await browser.post("/login", token="wrong-token-0123456789")
    assert answer.status_code == 429, "the guesser waits on"


async def test_orders_of_the_page_share_the_pace_of_control() -> None:
    browser = Browser(pacing=Pacing(each=Rate(burst=2, per_second=0.1), clock=lambda: 1.0))
    csrf = await browser.log_in()
    order = {"csrf": csrf, "action": "revoke", "kind": "user", "target": "4711"}
    answers = [await browser.post("/act", **order, confirmed="yes") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["retry-after"] == "10"
    assert "Too many calls to the admin port. Try again in 10 s." in answers[-1].text
    assert len(browser.calls) == 2
    assert (await browser.client.get("/live/data")).status_code == 200


async def test_over_tls_the_cookie_is_for_this_host_alone() -> None:
    answer = await Browser(scheme="https").post("/login", f"https://{HOST}", token=TOKEN)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-sentinel=")
    assert "; Secure" in cookie
    assert "domain" not in cookie.lower()


async def test_without_a_token_nobody_can_log_in_over_a_network() -> None:
    browser = Browser(token=None)
    assert (await browser.client.get("/")).status_code == 303
    answer = await browser.post("/login", token="")
    assert answer.status_code == 403
    assert "admin.token" in answer.text


async def test_trusted_peers_need_no_token_but_their_forms_are_guarded_all_the_same() -> None:
    browser = Browser(token=None, trusted_peers=True)
    csrf = await browser.csrf()
    order = {"action": "invalidate", "kind": "user", "target": "ada", "confirmed": "yes"}
    assert (await browser.post("/act", **order)).status_code == 403
    assert browser.calls == []
    assert (await browser.post("/act", csrf=csrf, **order)).status_code == 200
    assert browser.calls == [("invalidate", User("ada"), False)]


@pytest.mark.parametrize("origin", [None, "null", "http://127.0.0.1:8080", "http://evil.example"])
async def test_foreign_pages_can_do_nothing(origin: str | None) -> None:
    browser = Browser()
    csrf = await browser.log_in()
    order = {"action": "invalidate", "kind": "everybody", "confirmed": "yes", "typed": "everybody"}
    for path in ("/act", "/logout", "/login"):
        answer = await browser.post(path, origin, csrf=csrf, token=TOKEN, **order)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
    for wrong in ("", "0" * 64):
        answer = await browser.post("/act", csrf=wrong, **order)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "csrf")
    answer = await browser.client.post("/act", json=order, headers={"origin": ORIGIN})
    assert answer.status_code == 400
    assert browser.calls == []
    assert (await browser.client.get("/act")).status_code == 405


async def test_a_name_that_was_rebound_to_a_tunnel_gets_nothing() -> None:
    """A tunnel ends at the Unix socket, where nobody needs a token."""
    browser = Browser(token=None, trusted_peers=True, on_socket=True)
    csrf = await browser.csrf()
    evil = {"host": "evil.example:9180", "origin": "http://evil.example:9180"}
    for path in ("/", "/live/data", "/login"):
        answer = await browser.client.get(path, headers=evil)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "unknown_host")
    order = {"action": "invalidate", "kind": "user", "target": "ada", "confirmed": "yes"}
    answer = await browser.client.post("/act", data=order | {"csrf": csrf}, headers=evil)
    assert answer.status_code == 403
    assert browser.calls == []


async def test_the_page_can_not_be_framed_nor_run_what_is_not_ours() -> None:
    browser = Browser()
    await browser.log_in()
    for path in ("/", "/login"):
        headers = (await browser.client.get(path)).headers
        policy = headers["content-security-policy"]
        assert headers.get_list("content-security-policy") == [policy]
        for part in ("default-src 'none'", "script-src 'self';", "frame-ancestors 'none'"):
            assert part in policy
        assert "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


async def test_style_and_script_are_files_with_hashes() -> None:
    browser = Browser()
    page = (await browser.client.get("/login")).text
    found = re.findall(r'(?:src|href)="(/static/[^"]+)"(?: integrity="(sha256-[^"]+)")?', page)
    assert len(found) == 3
    for path, _ in found:
        answer = await browser.client.get(path)
        assert answer.status_code == 200
        assert answer.headers.get_list("cache-control") == ["public, max-age=31536000, immutable"]
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in answer.text
    assert sum(bool(integrity) for _, integrity in found) == 2
    for missing in ("/static/page.css", "/static/..%2fpage.py", "/static/"):
        assert (await browser.client.get(missing)).status_code == 404


# What it does


async def test_what_happened_is_shown() -> None:
    browser = Browser()
    for _ in range(3):
        browser.live.emit(finished("ada", "gpt-4o"))
    browser.live.emit(ExchangeRefused("0190", 429, "rate_limit_exceeded", None, None))
    browser.now += STEP_S
    await browser.log_in()
    data = (await browser.client.get("/live/data")).json()
    assert data["tiles"] == {
        "admitted": "3",
        "refused": "1",
        "tokens": "360",
        "running": "0",
        "running-shown": "all of them",
    }
    assert data["tables"]["users"] == [
        [{"text": "ada", "user": "ada"}, {"text": "360"}, {"text": "3"}]
    ]
    assert data["tables"]["reasons"] == [[{"text": "rate_limit_exceeded"}, {"text": "1"}]]
    assert data["series"]["admitted"][-1] == 3 / STEP_S
    assert data["series"]["output_tokens"][-1] == 60 / STEP_S
    assert data["alert"] == ""
    minutes = [[cell["text"] for cell in row] for row in data["tables"]["minutes"]]
    assert minutes[0] == ["the last minute", "3", "1", "300", "60"]
    browser.store = "away"
    assert "Redis, for limits: away." in (await browser.client.get("/live/data")).json()["alert"]


async def test_the_limits_of_a_user() -> None:
    browser = Browser()
    await browser.log_in()
    asked = {"user": " ada ", "model": "gpt-4o", "path": "/v1/responses", "plan": ""}
    page = (await browser.client.get("/", params=asked)).text
    assert browser.questions == [Question("ada", "/v1/responses", "gpt-4o", None)]
    assert '<meter min="0" max="1" low="0.1" value="0.25"' in page
    assert "12 s" in page
    browser.fault = Unavailable("The limit store does not answer.")
    assert "The limit store does not answer." in (await browser.client.get("/?user=ada")).text


async def test_nothing_is_done_before_it_is_confirmed(caplog: pytest.LogCaptureFixture) -> None:
    browser = Browser()
    csrf = await browser.log_in()
    order = {
        "action": "revoke",
        "kind": "user",
        "target": "ada",
        "streams": "yes",
        "reason": "lost",
    }
    answer = await browser.post("/act", csrf=csrf, **order)
    assert (answer.status_code, browser.calls) == (200, [])
    assert "Revoke user “ada”?" in answer.text
    kept = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', answer.text))
    assert kept == order | {"csrf": csrf, "confirmed": "yes"}
    answer = await browser.post("/act", **kept)
    assert browser.calls == [("revoke", User("ada"), True)]
    assert "Ended: 3 running answers." in answer.text
    assert "revoked" in [record.message for record in caplog.records]


async def test_everybody_takes_a_word() -> None:
    browser = Browser()
    csrf = await browser.log_in()
    order = {"action": "revoke", "kind": "everybody", "csrf": csrf, "confirmed": "yes"}
    for typed in ({}, {"typed": "yes"}):
        assert "to go on" in (await browser.post("/act", **order, **typed)).text
        assert browser.calls == []
    await browser.post("/act", **order, typed="everybody")
    assert browser.calls == [("revoke", Everybody(), False)]


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"kind": "user"},
        {"kind": "user", "target": "x" * 300},
        {"kind": "token_sha256", "target": "abc"},
        {"kind": "planet", "target": "ada"},
        {"kind": "user", "target": "ada", "action": "revoke", "reason": "x" * 201},
    ],
)
async def test_orders_that_make_no_sense_are_refused(order: dict[str, str]) -> None:
    browser = Browser()
    csrf = await browser.log_in()
    answer = await browser.post("/act", csrf=csrf, confirmed="yes", **order)
    assert (answer.status_code, browser.calls) == (400, [])
    assert 'role="alert"' in answer.text


async def test_what_could_not_be_done_is_told() -> None:
    browser = Browser()
    csrf = await browser.log_in()
    browser.fault = Unavailable("It is not certain everywhere; repeat it.")
    answer = await browser.post(
        "/act", csrf=csrf, action="revoke", kind="user", target="ada", confirmed="yes"
    )
    assert answer.status_code == 503
    assert "It is not certain everywhere; repeat it." in answer.text


def test_a_limit_on_what_is_under_way_at_once_is_told_from_a_total() -> None:
    limit = {"unit": "requests", "limit": 3, "remaining": 1, "shadow": False}
    at_once, total = limit_rows(
        [
            limit | {"name": "streams", "reset_seconds": None, "at_once": True},
            limit | {"name": "trial", "reset_seconds": None, "at_once": False},
        ]
    )
    assert [cell.text for cell in at_once[3:]] == ["3 at once", "they end"]
    assert [cell.text for cell in total[3:]] == ["3", "never"]
