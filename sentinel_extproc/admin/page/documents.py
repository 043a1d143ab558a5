"""The pages themselves. Pure: what they show comes in, HTML goes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sentinel_extproc.admin.looking import DEFAULT_PATH
from sentinel_extproc.admin.page.cells import Row, name
from sentinel_extproc.admin.page.html import Html, document, el, text
from sentinel_extproc.admin.page.tables import View
from sentinel_extproc.admin.page.widgets import choice, field, radio, table

_PATHS = (
    DEFAULT_PATH,
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/completions",
    "/v1/images/generations",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/moderations",
    "/v1/realtime",
)


@dataclass(frozen=True, slots=True)
class Files:
    """Where the browser finds the style, the script and the icon, with their SHA-256 (base64)."""

    style: tuple[str, str]
    script: tuple[str, str]
    icon: str


@dataclass(frozen=True, slots=True)
class LookUp:
    """A question about limits, as typed, and its answer.

    Attributes:
        rows: None when nothing was asked, or it can't be told.
        problem: why it can't.
    """

    user: str = ""
    model: str = ""
    path: str = DEFAULT_PATH
    plan: str = ""
    rows: tuple[Row, ...] | None = None
    problem: str = ""


def dashboard(
    view: View, look_up: LookUp, *, csrf: str, files: Files, logged_in: bool, version: str
) -> bytes:
    """The live page."""
    main = el(
        "main",
        _bar(view),
        el("div", *_tiles(view), class_="tiles"),
        _traffic(view),
        el(
            "div",
            _section("users", "Top users", view, "Of the last 10 to 15 minutes, by tokens."),
            _section("models", "Top models", view, "Of the last 10 to 15 minutes, by tokens."),
            _section("reasons", "Refusals by reason", view, "Of the last 10 to 15 minutes."),
            class_="columns",
        ),
        _running(view),
        _section("states", "Queues and dependencies", view, ""),
        *((_section("workers", "Workers", view, ""),) if view.tables["workers"] else ()),
        _limits(look_up),
        _control(csrf),
        id="main",
        data_live="/live/data",
    )
    return _page("Live", main, files, csrf=csrf if logged_in else None, version=version)


def login(files: Files, *, problem: str = "") -> bytes:
    """Asks for the admin token."""
    form = el(
        "form",
        *((el("p", problem, role="alert", class_="problem"),) if problem else ()),
        field(
            "token",
            "Admin token",
            type="password",
            autocomplete="current-password",
            required=True,
            autofocus=True,
            maxlength=512,
        ),
        el("button", "Log in", type="submit"),
        el("p", "The one in admin.token or admin.token_file. You stay logged in for an hour."),
        method="post",
        action="/login",
        class_="card narrow",
    )
    return _page("Log in", el("main", el("h1", "Log in"), form, id="main"), files)


def confirmation(
    what: str, *, effect: str, fields: Mapping[str, str], csrf: str, files: Files, typed: bool
) -> bytes:
    """Asks whether it is really meant; ``typed``: by a word, as it concerns everybody."""
    hidden = [el("input", type="hidden", name=key, value=value) for key, value in fields.items()]
    form = el(
        "form",
        el("p", effect),
        *hidden,
        el("input", type="hidden", name="csrf", value=csrf),
        el("input", type="hidden", name="confirmed", value="yes"),
        *(
            (field("typed", "Type “everybody” to go on", required=True, autocomplete="off"),)
            if typed
            else ()
        ),
        el(
            "div",
            el("button", "Yes, do it", type="submit", class_="danger"),
            el("a", "Cancel", href="/", class_="button"),
            class_="buttons",
        ),
        method="post",
        action="/act",
        class_="card narrow",
    )
    main = el("main", el("h1", what, tabindex=-1, autofocus=True), form, id="main")
    return _page("Confirm", main, files, csrf=csrf)


def told(title: str, message: str, files: Files, *, problem: bool = False) -> bytes:
    """Says what became of something."""
    body = el(
        "div",
        el(
            "p",
            message,
            role="alert" if problem else "status",
            class_="problem" if problem else None,
        ),
        el("p", el("a", "Back to the live page", href="/", class_="button")),
        class_="card narrow",
    )
    return _page(title, el("main", el("h1", title), body, id="main"), files)


def _page(
    title: str, main: Html, files: Files, *, csrf: str | None = None, version: str = ""
) -> bytes:
    head = text(
        el("meta", charset="utf-8"),
        el("title", f"{title} · Sentinel"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("link", rel="icon", href=files.icon, type="image/svg+xml"),
        el("link", rel="stylesheet", href=files.style[0], integrity=files.style[1]),
        el("script", src=files.script[0], integrity=files.script[1], defer=True),
    )
    out = (
        el(
            "form",
            el("input", type="hidden", name="csrf", value=csrf),
            el("button", "Log out", type="submit"),
            method="post",
            action="/logout",
        )
        if csrf is not None
        else text()
    )
    banner = el(
        "header",
        el("a", "Skip to content", href="#main", class_="skip"),
        el("a", el("strong", "Sentinel"), " live", href="/", class_="brand"),
        el("span", version, class_="version"),
        out,
    )
    return document(head, el("body", banner, main))


def _bar(view: View) -> Html:
    return el(
        "div",
        el("h1", "Live"),
        el("p", "As of ", el("span", view.at, id="at"), id="as-of"),
        el("button", "Pause", type="button", id="pause", aria_pressed="false", hidden=True),
        el(
            "p",
            view.alert,
            id="alert",
            role="status",
            aria_live="polite",
            class_="alert",
            data_mood=view.mood,
        ),
        class_="bar",
    )


def _tiles(view: View) -> list[Html]:
    titles = {
        "admitted": "Admitted, last minute",
        "refused": "Refused, last minute",
        "tokens": "Tokens, last minute",
        "running": "Running now",
    }
    return [
        el(
            "p",
            el("span", title, class_="title"),
            el("span", view.tiles[key], class_="value", data_tile=key),
            class_="tile",
        )
        for key, title in titles.items()
    ]


def _traffic(view: View) -> Html:
    charts = el(
        "div",
        _chart(
            "requests", "Requests per second", (("admitted", "Admitted"), ("refused", "Refused"))
        ),
        _chart(
            "tokens",
            "Tokens per second",
            (("input_tokens", "Input"), ("output_tokens", "Output")),
        ),
        class_="charts",
    )
    return el(
        "section",
        el("h2", "Traffic and tokens, last 15 minutes", id="h-traffic"),
        el("noscript", el("p", "The charts need the page's script; the table says the same.")),
        charts,
        el(
            "details",
            el("summary", "The same as a table"),
            table("minutes", "Requests and tokens per minute", view.tables["minutes"]),
        ),
        el("p", "Counted when an exchange ends.", class_="hint"),
        aria_labelledby="h-traffic",
    )


def _chart(chart: str, title: str, series: Sequence[tuple[str, str]]) -> Html:
    keys = [el("span", label, class_=f"key key-{place}") for place, (_, label) in enumerate(series)]
    return el(
        "figure",
        el("figcaption", el("span", title), el("span", *keys, class_="keys")),
        el("div", class_="plot"),
        class_="card chart",
        id=f"chart-{chart}",
        data_title=title,
        data_series=" ".join(each for each, _ in series),
        data_labels=" ".join(label for _, label in series),
    )


def _running(view: View) -> Html:
    shown = el("span", view.tiles["running-shown"], data_tile="running-shown")
    hint = el("p", "Here: ", shown, ".", class_="hint")
    return el(
        "section",
        el("h2", "Running streams", id="h-running"),
        hint,
        table("running", "Running streams, the oldest first", view.tables["running"]),
        aria_labelledby="h-running",
    )


def _section(which: str, title: str, view: View, hint: str) -> Html:
    return el(
        "section",
        el("h2", title, id=f"h-{which}"),
        *((el("p", hint, class_="hint"),) if hint else ()),
        table(which, title, view.tables[which]),
        aria_labelledby=f"h-{which}",
    )


def _limits(look_up: LookUp) -> Html:
    answer = text()
    if look_up.problem:
        answer = el("p", look_up.problem, role="alert", class_="problem")
    elif look_up.rows is not None:
        caption = f"Limits of {name(look_up.user).text}"
        answer = table("limits", caption, look_up.rows)
    form = el(
        "form",
        field("user", "User (external id)", value=look_up.user, required=True, maxlength=256),
        field("model", "Model", value=look_up.model, maxlength=256, placeholder="any"),
        choice("path", "Path", _PATHS, look_up.path),
        field("plan", "Plan, if Zion doesn't say", value=look_up.plan, maxlength=64),
        el("button", "Look up", type="submit"),
        method="get",
        action="/#limits",
        class_="fields",
    )
    return el(
        "section",
        el("h2", "Limits of a user", id="h-limits"),
        el("p", "What is left now. Looking takes nothing.", class_="hint"),
        form,
        answer,
        id="limits",
        aria_labelledby="h-limits",
    )


def _control(csrf: str) -> Html:
    actions = el(
        "fieldset",
        el("legend", "What"),
        radio("action", "invalidate", "Invalidate: forget what is cached", checked=True),
        radio("action", "revoke", "Revoke: trust it no more; a token is refused"),
    )
    whom = el(
        "fieldset",
        el("legend", "Whom"),
        radio("kind", "user", "A user, by external id", checked=True),
        radio("kind", "token_sha256", "A token, by its SHA-256"),
        radio("kind", "everybody", "Everybody"),
    )
    form = el(
        "form",
        actions,
        whom,
        field("target", "External id or SHA-256", maxlength=256, autocomplete="off"),
        field("reason", "Reason, for the log", maxlength=200, autocomplete="off"),
        el(
            "label",
            el("input", type="checkbox", name="streams", value="yes"),
            " End running answers too (revoking a user or everybody)",
        ),
        el("input", type="hidden", name="csrf", value=csrf),
        el("p", el("button", "Continue …", type="submit")),
        method="post",
        action="/act",
        class_="orders",
    )
    return el(
        "section",
        el("h2", "Revoke or invalidate", id="h-control"),
        el("p", "You are asked again before anything is done.", class_="hint"),
        form,
        aria_labelledby="h-control",
    )
