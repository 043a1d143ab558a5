"""One run of the demo: everything up, the scenario, staying up, everything down in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
from rich.console import Console
from rich.status import Status

from sentinel_extproc.demo.billing import BillSource, LedgerBill, UsedBill
from sentinel_extproc.demo.live_page import LivePage, free_port, live_page
from sentinel_extproc.demo.openai_wire import DATED_MODELS
from sentinel_extproc.demo.process import StartError
from sentinel_extproc.demo.scenario import Person, Scenario
from sentinel_extproc.demo.signals import Terminated, ignore_signals
from sentinel_extproc.demo.stack import Services, Stack, start_stack
from sentinel_extproc.demo.traffic import SAMPLE_USERS, SampleTraffic
from sentinel_extproc.demo.zion_standin import DEMO_USERS

REQUEST_LIMIT = 10
PERIOD_S = 60
_DEFAULT_MODEL = "gpt-4o-mini"
_DEFAULT_PROVIDER = "https://api.openai.com"
_NEEDED = ("OPENAI_API_KEY", "ZION_API_URL", "ZION_API_KEY")
_WATCH_S = 0.5
_HELD = "[green]✓[/green] every step held"
_NOT_HELD = "[red]✗[/red] not every step held"


def play(
    *,
    once: bool,
    port: int,
    traffic: bool,
    environ: Mapping[str, str],
    console: Console,
    work_dir: Path,
) -> int:
    """Run it all; see `sentinel_extproc.demo.main.run_demo`.

    Returns:
        0 if every step held and the sidecar stopped cleanly, else 1.

    Raises:
        StartError: a part couldn't be started, or ended by itself; the others have been stopped.
    """
    started = time.monotonic()
    services, token = _real_services(environ, console)
    if traffic and services is not None:
        raise StartError(
            "--traffic is for the stand-ins: with the real services calls are paid for"
        )
    page = None if once else live_page()
    with (
        _Announcer(console) as announcer,
        start_stack(
            work_dir=work_dir,
            services=services,
            settings={
                "SENTINEL_LIMITS__REQUESTS": str(REQUEST_LIMIT),
                "SENTINEL_LIMITS__PERIOD_SECONDS": str(PERIOD_S),
            }
            | ({} if page is None else page.settings),
            users=(*DEMO_USERS, *SAMPLE_USERS),
            chunk_delay_s=0.02,
            listener_port=0 if once else free_port(port) or 0,
            progress=announcer,
        ) as stack,
    ):
        try:
            announcer.done(time.monotonic() - started)
            with closing(_scenario(stack, token, environ, console)) as scenario:
                held = scenario.run()
            console.print(_HELD if held else _NOT_HELD)
            if page is not None:
                _stay_up(stack, console, token, page, traffic=traffic, logs=work_dir)
        finally:
            ignore_signals()
            announcer.stopping()
    sidecar_code = stack.sidecar.process.exit_code
    if sidecar_code != 0:
        console.print(f"[red]✗[/red] the sidecar ended with code {sidecar_code}; its log ends:")
        console.print(stack.sidecar.process.log_tail(), markup=False, highlight=False)
        return 1
    console.print("everything has been stopped")
    return 0 if held else 1


def _real_services(
    environ: Mapping[str, str], console: Console
) -> tuple[Services | None, str | None]:
    given = [name for name in _NEEDED if environ.get(name)]
    if len(given) < len(_NEEDED):
        if given:
            missing = ", ".join(sorted(set(_NEEDED) - set(given)))
            console.print(
                f"[yellow]![/yellow] {', '.join(given)} set but not {missing}: using the stand-ins"
            )
        return None, None
    token = environ.get("SENTINEL_DEMO_TOKEN")
    if not token:
        raise StartError("SENTINEL_DEMO_TOKEN is needed: the token of a user that your Zion knows")
    url = environ.get("OPENAI_API_URL") or _DEFAULT_PROVIDER
    console.print(f"using the real services: {url} and {environ['ZION_API_URL']}")
    services = Services(
        openai_url=url,
        openai_key=environ["OPENAI_API_KEY"],
        zion_url=environ["ZION_API_URL"].rstrip("/"),
        zion_key=environ["ZION_API_KEY"],
    )
    return services, token


def _scenario(
    stack: Stack, token: str | None, environ: Mapping[str, str], console: Console
) -> Scenario:
    model = environ.get("SENTINEL_DEMO_MODEL") or _DEFAULT_MODEL
    billing: BillSource
    if stack.zion is not None:
        billing = LedgerBill(stack.zion, aliases=DATED_MODELS)
        chatting, spending = (Person(user.external_id or "", user.token) for user in DEMO_USERS[:2])
    else:
        try:
            billing = UsedBill(
                url=stack.services.zion_url, api_key=stack.services.zion_key, token=token or ""
            )
        except (httpx.HTTPError, LookupError, ValueError) as fault:
            raise StartError(f"Zion's limits can't be read: {fault!r}") from fault
        chatting = spending = Person(billing.external_id, token or "")
        console.print(
            "with the real services the stream asks for its usage, one user plays both parts, the\n"
            "bill is the change of what Zion says was used, and what the provider saw isn't known\n"
        )
    return Scenario(
        console=console,
        base_url=stack.url,
        chatting=chatting,
        spending=spending,
        request_limit=REQUEST_LIMIT,
        billing=billing,
        provider=stack.openai,
        model=model,
    )


def _stay_up(
    stack: Stack,
    console: Console,
    token: str | None,
    page: LivePage,
    *,
    traffic: bool,
    logs: Path,
) -> None:
    # The scenario has left the second user at the limit and the third alone.
    chatted, spent, fresh = (user.token for user in DEMO_USERS)
    user = "$SENTINEL_DEMO_TOKEN" if token else fresh
    body = '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello"}]}'
    console.rule("[bold]It stays up; Ctrl-C ends it", align="left", style="dim")
    lines = [
        f"the live page    {page.link}",
        "                 open it in a browser and press Enter; it is of this machine only"
        + ("" if traffic or token else "\n                 (demo --traffic keeps it lively)"),
        f"the gateway      {stack.url}/v1",
        f"provider         {stack.services.openai_url}",
        f"Zion             {stack.services.zion_url}",
    ]
    if stack.zion is not None:
        lines += [
            f"Zion's ledger    {stack.services.zion_url}/_standin/ledger",
            f"tokens to use    {fresh}, {chatted}; {spent} is at its limit for a minute",
        ]
    lines += [
        f"limit            {REQUEST_LIMIT} requests per {PERIOD_S} s and user",
        f"logs             {logs}, until it ends",
        "",
        f"curl -i {stack.url}/v1/chat/completions -H 'content-type: application/json' \\",
        f"  -H \"authorization: Bearer {user}\" -d '{body}'",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    waiting = threading.Event()
    with ExitStack() as meanwhile:
        try:
            if traffic:
                meanwhile.enter_context(SampleTraffic(stack.url))
            while not waiting.wait(_WATCH_S):
                for process in stack.processes:
                    if not process.running:
                        raise StartError(
                            f"{process.name} ended with code {process.exit_code}; its log ends:\n"
                            f"{process.log_tail()}"
                        )
        except (KeyboardInterrupt, Terminated):
            ignore_signals()
            console.print()


class _Announcer:
    """Shows each part as it comes up, with a spinner for the one that is being waited for."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = Status("", console=console)

    def starting(self, part: str) -> None:
        """See `Progress.starting`."""
        self._status.update(f"starting {part}")
        self._status.start()

    def started(self, part: str, detail: str) -> None:
        """See `Progress.started`."""
        self._console.print(f"[green]✓[/green] {part:<16} {detail}", highlight=False)

    def done(self, seconds: float) -> None:
        """Everything is up."""
        self._status.stop()
        self._console.print(f"everything is up after {seconds:.1f} s\n", highlight=False)

    def stopping(self) -> None:
        """Everything is about to be stopped."""
        self._status.update("stopping Envoy, then the sidecar, which drains, then the rest")
        self._status.start()

    def __enter__(self) -> _Announcer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._status.stop()
