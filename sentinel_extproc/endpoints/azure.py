"""Azure OpenAI: the same calls under other paths. Pure.

``/openai/deployments/NAME/chat/completions?api-version=…``, ``/openai/v1/…`` and ``/openai/…``.
There the path names the model, by the name of its deployment, and what the body says of it is
ignored; so it is ignored here too. What a deployment is gets said by ``tokens.aliases``.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from msgspec import structs

from sentinel_extproc.endpoints import generation, json_body
from sentinel_extproc.endpoints.contract import (
    NO_HEAD,
    CounterFactory,
    Endpoint,
    Head,
    Meter,
    Plan,
)
from sentinel_extproc.endpoints.form import is_form
from sentinel_extproc.endpoints.realtime import Realtime
from sentinel_extproc.endpoints.table import Match, match_rest, plain_path
from sentinel_extproc.errors import InvalidRequest, NotFound, SentinelError

KEY_HEADER = "api-key"
"""Where Azure's clients put their key when they send no ``authorization``."""

PREFIX = "/openai/"

STREAM_OPTIONS_SINCE = "2024-09-01"
"""An older ``api-version`` answers 400 to ``stream_options``, so usage can't be asked for there."""

_DEPLOYMENT = re.compile(r"deployments/([A-Za-z0-9._-]{1,64})/(.+)")
_FOLDERS = ("deployments", "v1")
_DATED = re.compile(r"(\d{4}-\d{2}-\d{2})(?:-preview)?")


def match_azure(method: str, target: str, *, prefix: str = PREFIX) -> Match:
    """Find the rules for a request to Azure.

    Args:
        method, target: as in ``:method`` and ``:path``.

    Raises:
        InvalidRequest: the path is ambiguous or too long, or a key is in the query.
        NotFound: it is outside ``prefix``.
    """
    path = plain_path(target)
    if not path.startswith(prefix):
        raise NotFound(f"This provider serves paths under {prefix}.")
    query = parse_qs(target.partition("?")[2], keep_blank_values=True)
    if any(name.lower() == KEY_HEADER for name in query):
        # It would go on to the provider, and into everybody's logs.
        raise InvalidRequest(f"Send the key as the header {KEY_HEADER}, not in the query.")
    rest = path[len(prefix) :]
    folder = rest.partition("/")[0]
    if "%" in path or (folder != folder.lower() and folder.lower() in _FOLDERS):
        raise _ambiguous()
    if folder == "deployments":
        return _deployment(method, rest, query)
    rest = _spelt(rest.removeprefix("v1/"))
    endpoint = match_rest(method, rest)
    if isinstance(endpoint, Realtime) and "deployment" in query:
        if len(query["deployment"]) > 1:
            raise InvalidRequest("'deployment' is given twice.", param="deployment")
        endpoint = Deployment(endpoint, json_body.model_name({"model": query["deployment"][0]}))
    return Match(endpoint, f"/v1/{rest}", key_header=KEY_HEADER)


def _deployment(method: str, rest: str, query: dict[str, list[str]]) -> Match:
    found = _DEPLOYMENT.fullmatch(rest)
    if found is None:
        raise _ambiguous()
    name, call = found[1], _spelt(found[2])
    version = _DATED.fullmatch((query.get("api-version") or [""])[0])
    old = version is not None and version[1] < STREAM_OPTIONS_SINCE
    endpoint = Deployment(match_rest(method, call), name, may_ask_usage=not old)
    return Match(endpoint, f"/v1/{call}", key_header=KEY_HEADER)


def _spelt(rest: str) -> str:
    # Azure doesn't care for case in paths, so another spelling would be the same call there.
    if rest != rest.lower() and match_rest("POST", rest.lower()) is not match_rest("POST", rest):
        raise _ambiguous()
    return rest


def _ambiguous() -> InvalidRequest:
    return InvalidRequest("The request path is ambiguous.", code="ambiguous_path")


class Deployment:
    """An endpoint's rules, with the model that the path names.

    Args:
        may_ask_usage: the provider understands ``stream_options``.
    """

    def __init__(self, endpoint: Endpoint, model: str, *, may_ask_usage: bool = True) -> None:
        self._endpoint = endpoint
        self._model = model
        self._may_ask_usage = may_ask_usage
        self.name = endpoint.name
        self.upgrades = endpoint.upgrades
        self.key_header = KEY_HEADER
        self.drop_headers = endpoint.drop_headers
        self.any_body = endpoint.any_body

    def plan_head(self, head: Head) -> Plan | None:
        plan = self._endpoint.plan_head(head)
        return None if plan is None else self._named(plan)

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:
        return self._quiet(self._planned(body, head))

    def _planned(self, body: bytes | None, head: Head) -> Plan:
        try:
            plan = self._endpoint.plan(body, head)
        except InvalidRequest as fault:
            if fault.param != "model":
                raise
        else:
            if plan.model == self._model or is_form(head) or not body:
                return self._named(plan)
            if body.lstrip()[:1] != b"{":
                return self._named(plan)
        # The body names no model, or another one: its rules are those of the deployment.
        request = json_body.parse_object(body) | {"model": self._model}
        return self._endpoint.plan(generation.encode(request), head)

    def _quiet(self, plan: Plan) -> Plan:
        if self._may_ask_usage or not plan.hide_usage:
            return plan
        return structs.replace(plan, upstream_body=None, hide_usage=False)

    def _named(self, plan: Plan) -> Plan:
        return plan if plan.model == self._model else structs.replace(plan, model=self._model)

    def refined(self, plan: Plan) -> Plan:
        return self._named(self._endpoint.refined(plan))

    def clamped(self, plan: Plan, output_tokens: int) -> Plan:
        return self._endpoint.clamped(plan, output_tokens)

    def cut(self, message: str) -> bytes:
        return self._endpoint.cut(message)

    def error_body(self, error: SentinelError) -> bytes:
        return self._endpoint.error_body(error)

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:
        return self._endpoint.meter(plan, event_stream=event_stream, counters=counters)
