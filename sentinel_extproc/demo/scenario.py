"""The main job played through the gateway with the real ``openai`` client, one step at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import openai
from openai.types.chat import ChatCompletionChunk
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from sentinel_extproc.demo.billing import Amounts, Bill, BillSource, Line, total
from sentinel_extproc.demo.openai_standin import OpenAIStandIn

_POLL_S = 0.1
_BILLING_TIMEOUT_S = 30.0
_ATTEMPTS_BEYOND_LIMIT = 10
_SHOWN_HEADERS = ("retry-after", "x-ratelimit", "x-sentinel")


class StepFailed(Exception):
    """A step didn't hold; says what was expected and what happened."""


@dataclass(frozen=True, slots=True)
class Person:
    """A user of the scenario."""

    external_id: str
    token: str


class Scenario:
    """The steps, and what they used.

    Args:
        base_url: the gateway's, without ``/v1``.
        chatting: who chats; ``spending`` is who runs into the limit. May be the same.
        request_limit: requests that the sidecar's limit admits at once.
        billing: where to read what Zion was billed.
        provider: the stand-in, to see what reached it; None with the real one.
    """

    def __init__(
        self,
        *,
        console: Console,
        base_url: str,
        chatting: Person,
        spending: Person,
        request_limit: int,
        billing: BillSource,
        provider: OpenAIStandIn | None,
        model: str = "gpt-4o-mini",
        billing_timeout_s: float = _BILLING_TIMEOUT_S,
    ) -> None:
        self._console = console
        self._base_url = base_url
        self._chatting = chatting
        self._spending = spending
        self._request_limit = request_limit
        self._billing = billing
        self._provider = provider
        self._model = model
        self._billing_timeout_s = billing_timeout_s
        self._used: list[tuple[Line, Amounts]] = []
        self._http = openai.DefaultHttpxClient(trust_env=False)

    def run(self) -> bool:
        """Play every step, each whether or not those before it held. True if all did."""
        steps: list[tuple[str, Callable[[], str]]] = [
            ("A chat", self.chat),
            ("A streamed chat", self.streamed_chat),
            ("An unknown token", self.unknown_token),
            ("A limit reached", self.limit_reached),
            ("What Zion was billed", self.billed),
        ]
        if self._provider is not None:
            steps.append(("What the provider saw", self.provider_saw))
        held = [self._play(n, title, step) for n, (title, step) in enumerate(steps, start=1)]
        return all(held)

    def close(self) -> None:
        """Close the client's connections."""
        self._http.close()

    def _play(self, number: int, title: str, step: Callable[[], str]) -> bool:
        self._console.rule(f"[bold]{number}. {title}", align="left", style="dim")
        try:
            said = step()
        except (StepFailed, openai.OpenAIError) as fault:
            self._say("✗", "red", f"{type(fault).__name__}: {fault}")
            return False
        except Exception as fault:  # noqa: BLE001 - whatever breaks, the other steps still show
            self._say("✗", "red", f"unexpected {type(fault).__name__}: {fault}")
            return False
        self._say("✓", "green", said)
        return True

    def chat(self) -> str:
        """A chat completion, answered whole."""
        question = "What is an Envoy sidecar, in one sentence?"
        self._console.print(f"  [cyan]{question}[/cyan]")
        with self._console.status("waiting for the answer"):
            answer = self._client(self._chatting).chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": question}],
                max_completion_tokens=200,
            )
        self._console.print(f"  {answer.choices[0].message.content}", markup=False)
        if answer.usage is None:
            raise StepFailed("the answer has no usage")
        amounts = Amounts(1, answer.usage.prompt_tokens, answer.usage.completion_tokens)
        self._note(self._chatting, amounts)
        return f"{amounts.input_tokens} tokens in, {amounts.output_tokens} out, by {answer.model}"

    def streamed_chat(self) -> str:
        """A streamed completion, printed as it arrives."""
        question = "And what does it do for a paid API? Stream your answer."
        self._console.print(f"  [cyan]{question}[/cyan]\n  ", end="")
        asks_usage = self._provider is None
        stream = self._client(self._chatting).chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": question}],
            max_completion_tokens=200,
            stream=True,
            stream_options={"include_usage": True} if asks_usage else openai.omit,
        )
        chunks = list(self._printed(stream))
        self._console.print()
        usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
        if asks_usage:
            if not usages:
                raise StepFailed("the stream ended without the usage that was asked for")
            amounts = Amounts(1, usages[-1].prompt_tokens, usages[-1].completion_tokens)
        else:
            if usages or any(not chunk.choices for chunk in chunks):
                raise StepFailed("the client got a usage chunk that it hadn't asked for")
            amounts = self._served_by_standin(chunks[0].id)
        self._note(self._chatting, amounts)
        hidden = "" if asks_usage else "; the provider's usage chunk was kept from the client"
        return (
            f"{len(chunks)} chunks, {amounts.input_tokens} tokens in, "
            f"{amounts.output_tokens} out{hidden}"
        )

    def unknown_token(self) -> str:
        """A token that Zion doesn't know is refused before the provider hears of it."""
        stranger = Person("", "no-such-token")
        before = self._requests_at_provider()
        try:
            self._client(stranger).chat.completions.create(
                model=self._model, messages=[{"role": "user", "content": "let me in"}]
            )
        except openai.AuthenticationError as refused:
            if self._requests_at_provider() != before:
                raise StepFailed("the request reached the provider all the same") from refused
            return f"openai.AuthenticationError: {refused}"
        raise StepFailed("it was let through")

    def limit_reached(self) -> str:
        """Requests until the limit refuses one."""
        refused: openai.RateLimitError | None = None
        attempts = self._request_limit + _ATTEMPTS_BEYOND_LIMIT
        columns = (TextColumn("  requests"), BarColumn(30), MofNCompleteColumn())
        admitted = 0
        client = self._client(self._spending)
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task("requests", total=self._request_limit)
            while refused is None and admitted < attempts:
                try:
                    self._spend(client)
                except openai.RateLimitError as fault:
                    refused = fault
                else:
                    admitted += 1
                    progress.advance(task)
        if refused is None:
            raise StepFailed(f"{admitted} requests were let through, the limit being fewer")
        shared = self._spending == self._chatting
        if admitted < self._request_limit and not shared:
            raise StepFailed(f"refused after {admitted}, before {self._request_limit}: {refused}")
        self._show_headers(refused)
        return f"{admitted} admitted, then openai.RateLimitError: {refused}"

    def billed(self) -> str:
        """Zion's bill, once it equals what was used."""
        expected = total(self._used)
        if not self._billing.by_model:
            expected = total((Line(line.external_id, ""), n) for line, n in self._used)
        deadline = time.monotonic() + self._billing_timeout_s
        with self._console.status("waiting for the sidecar's reports to Zion"):
            while (bill := self._billing.read()) != expected and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        self._console.print(bill_table(expected, bill))
        if bill != expected:
            raise StepFailed("the bill is not what was used")
        requests = sum(amounts.requests for amounts in bill.values())
        return f"{requests} requests billed, every line equal to what was used"

    def provider_saw(self) -> str:
        """No user's token went upstream."""
        if self._provider is None:
            raise StepFailed("only the stand-in can tell")
        seen = self._provider.requests()
        tokens = {self._chatting.token, self._spending.token, "no-such-token"}
        if not all(request.authorized for request in seen):
            raise StepFailed("a request without the provider's own key reached it")
        for request in seen:
            for name, value in request.headers:
                if any(token in value for token in tokens):
                    raise StepFailed(f"a user's token reached it in {name}")
        return f"{len(seen)} requests, all under the provider's own key, no user's token in any"

    def _client(self, person: Person) -> openai.OpenAI:
        return openai.OpenAI(
            api_key=person.token,
            base_url=f"{self._base_url}/v1",
            max_retries=0,
            timeout=120.0,
            http_client=self._http,
        )

    def _printed(self, stream: openai.Stream[ChatCompletionChunk]) -> Iterator[ChatCompletionChunk]:
        for chunk in stream:
            for choice in chunk.choices:
                text = choice.delta.content or ""
                self._console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
            yield chunk

    def _spend(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": "hi"}],
            max_completion_tokens=16,
        )
        if answer.usage is None:
            raise StepFailed("an answer has no usage")
        self._note(
            self._spending,
            Amounts(1, answer.usage.prompt_tokens, answer.usage.completion_tokens),
        )

    def _served_by_standin(self, completion_id: str) -> Amounts:
        # Its note is made when the stream's generator is closed, just after its last byte.
        deadline = time.monotonic() + 5
        while self._provider is not None and time.monotonic() < deadline:
            for served in self._provider.served():
                if served.id == completion_id:
                    return Amounts(1, served.prompt_tokens, served.completion_tokens)
            time.sleep(_POLL_S)
        raise StepFailed(f"the provider knows of no answer {completion_id}")

    def _requests_at_provider(self) -> int:
        return 0 if self._provider is None else len(self._provider.requests())

    def _note(self, person: Person, amounts: Amounts) -> None:
        self._used.append((Line(person.external_id, self._model), amounts))

    def _show_headers(self, refused: openai.RateLimitError) -> None:
        shown = {
            name: value
            for name, value in refused.response.headers.items()
            if name.lower().startswith(_SHOWN_HEADERS)
        }
        table = Table(box=None, show_header=False, padding=(0, 2))
        for name, value in shown.items():
            table.add_row(name, value)
        self._console.print(table)
        missing = {"retry-after", "x-ratelimit-limit-requests"} - {name.lower() for name in shown}
        if missing:
            raise StepFailed(f"the 429 lacks {', '.join(sorted(missing))}")

    def _say(self, mark: str, style: str, text: str) -> None:
        self._console.print(Text.assemble((mark, style), " ", text, "\n"))


def bill_table(used: Bill, billed: Bill) -> Table:
    """Every line of either, used beside billed."""
    table = Table(title="used → billed", title_justify="left")
    for title in ("user", "model"):
        table.add_column(title)
    for title in ("requests", "input tokens", "output tokens"):
        table.add_column(title, justify="right")
    table.add_column("")
    for line in sorted(used.keys() | billed.keys(), key=lambda n: (n.external_id, n.model)):
        ours, theirs = used.get(line, Amounts()), billed.get(line, Amounts())
        table.add_row(
            line.external_id,
            line.model or "all",
            f"{ours.requests} → {theirs.requests}",
            f"{ours.input_tokens} → {theirs.input_tokens}",
            f"{ours.output_tokens} → {theirs.output_tokens}",
            "[green]✓[/green]" if ours == theirs else "[red]✗[/red]",
        )
    return table
