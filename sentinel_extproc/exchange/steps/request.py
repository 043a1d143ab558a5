"""The request: authenticated, read, counted, reserved, let through. Pure."""

from __future__ import annotations

from sentinel_extproc.endpoints.guarded import GuardedUpload
from sentinel_extproc.errors import InvalidRequest, Unauthenticated
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange import native
from sentinel_extproc.exchange.accounting import intent
from sentinel_extproc.exchange.commands import Commands
from sentinel_extproc.exchange.headers import request_id, to_provider
from sentinel_extproc.exchange.intake import claim, output_to_reserve, read_opening
from sentinel_extproc.exchange.progress import Progress
from sentinel_extproc.exchange.states import ProtocolViolation, State
from sentinel_extproc.exchange.steps import end
from sentinel_extproc.exchange.unreadable import content_type
from sentinel_extproc.limits.model import Quantities
from sentinel_extproc.tokens.model import Confidence


def headers(progress: Progress, event: on.RequestHeaders) -> Commands:
    """Find the rules, take the token."""
    if event.observed and progress.enforces:
        raise ProtocolViolation("Envoy only observes here; server.mode: shadow is for that")
    progress.request = event
    progress.request_id = request_id(event.headers)
    progress.chosen = chosen = progress.choose(event)
    progress.match = match = chosen.match
    progress.error_body = match.endpoint.error_body
    progress.facts["endpoint"] = match.endpoint.name
    if chosen.name:
        progress.facts["provider"] = chosen.name
    opening = read_opening(
        match, event, credential=progress.credential, max_body_bytes=progress.max_body
    )
    progress.head = opening.head
    if opening.plan is not None:
        progress.plan, progress.planned = opening.plan, True
    progress.token = opening.token
    progress.state = State.AUTHENTICATING
    return (do.Authenticate(opening.token),)


def authenticated(progress: Progress, event: on.Authenticated) -> Commands:
    """Let Envoy collect the body, if it is needed."""
    progress.principal = event.principal
    progress.quotas = event.quotas
    progress.facts["user"] = event.principal.external_id
    if progress.planned:
        return _count_or_reserve(progress)
    progress.state = State.WAITING_FOR_BODY
    return (_reply(progress, do.Mode.REQUEST_AND_STREAM),)


def body(progress: Progress, event: on.RequestBody) -> Commands:
    """Read the request."""
    progress.state = State.READING
    return (do.Read(progress.match.endpoint, event.body, progress.head),)


def planned(progress: Progress, event: on.Planned) -> Commands:
    """The request is understood."""
    progress.plan = event.plan
    return _count_or_reserve(progress)


def trailers_without_body(progress: Progress, event: on.Trailers) -> Commands:
    """Trailers without a body: Envoy would forward them without ever asking about a body."""
    if event.of_response:
        raise ProtocolViolation("response trailers before a decision")
    raise InvalidRequest(
        "Requests with trailers but without a body are not supported.",
        code="trailers_without_body",
    )


def _count_or_reserve(progress: Progress) -> Commands:
    plan = progress.plan
    progress.facts["model"] = plan.model
    progress.chosen.check_model(plan.model)
    if plan.count is None:
        if not plan.input_tokens:
            progress.confidence = Confidence.EXACT
        return _reserve(progress, 0, characters=0)
    progress.state = State.COUNTING
    return (do.Count(plan.count),)


def counted(progress: Progress, event: on.Counted) -> Commands:
    """Reserve what was counted."""
    progress.confidence = event.estimate.confidence
    return _reserve(progress, event.estimate.input_tokens, characters=event.estimate.characters)


def _reserve(progress: Progress, input_tokens: int, *, characters: int) -> Commands:
    plan = progress.plan
    output = output_to_reserve(plan, progress.expected_output, progress.principal.external_id)
    progress.basis = output.basis
    progress.predicted = Quantities(
        requests=1,
        input_tokens=input_tokens + plan.input_tokens,
        output_tokens=output.tokens,
        characters=characters,
    )
    return _claim(progress)


def _claim(progress: Progress) -> Commands:
    progress.state = State.RESERVING
    plan, principal = progress.plan, progress.principal
    request = claim(
        progress.exchange_id, progress.match, plan, principal, progress.quotas, progress.predicted
    )
    begun = intent(
        request,
        plan,
        principal,
        occurred_at_ms=progress.started_at_ms,
        request_id=progress.request_id,
    )
    return (do.Reserve(request, begun),)


def revoked(progress: Progress, event: on.Revoked) -> Commands:
    """Ask the identity source itself, once: it may still accept the token."""
    if progress.asked_again:
        return end.refuse(progress, event.error)
    progress.asked_again = True
    progress.state = State.REAUTHENTICATING
    return (do.Authenticate(progress.token, again=True),)


def reauthenticated(progress: Progress, event: on.Authenticated) -> Commands:
    """Reserve again, if it is still the same caller: the request was prepared for that one."""
    if event.principal.external_id != progress.principal.external_id:
        raise Unauthenticated("The API key belongs to somebody else now.")
    progress.principal, progress.quotas = event.principal, event.quotas
    return _claim(progress)


def reserved(progress: Progress, event: on.Reserved) -> Commands:
    """Let the request through."""
    progress.reserved = event.reservation
    progress.answer_headers = event.answer_headers
    granted = event.reservation.held.output_tokens
    if granted < progress.predicted.output_tokens:
        clamped = progress.match.endpoint.clamped(progress.plan, granted)
        if clamped is not progress.plan:
            progress.plan = clamped
            progress.answer_headers += (("x-sentinel-max-output-tokens", str(granted)),)
    progress.facts["decision"] = "admitted"
    progress.state = State.ADMITTED
    if progress.planned:
        mode = do.Mode.HEADERS_ONLY if progress.plan.unwatched else do.Mode.STREAM
        if progress.plan.upload is not None:
            progress.upload = GuardedUpload(progress.plan.upload)
            mode = do.Mode.STREAM_BOTH
        return (_reply(progress, mode),)
    upstream = progress.plan.upstream_body
    # A changed body with the old Content-Length would make Envoy answer 500.
    changed = () if upstream is None else (("content-length", b"%d" % len(upstream)),)
    if not progress.meters_natively:
        return (do.Reply(do.Phase.REQUEST_BODY, changed, body=upstream),)
    changed = (*changed, native.HEADER)
    return (do.Reply(do.Phase.REQUEST_BODY, changed, body=upstream, reroute=True),)


def _reply(progress: Progress, mode: do.Mode) -> do.Reply:
    lines, endpoint = progress.request.headers, progress.match.endpoint
    set_headers, removed = to_provider(
        lines,
        progress.chosen.upstream,
        progress.principal,
        progress.exchange_id,
        drop=endpoint.drop_headers,
    )
    if not progress.planned:
        set_headers += content_type(lines, progress.head, endpoint)
    # A client's own copy may have chosen the route, before it was taken away.
    astray = progress.bytes_per_token is not None and native.HEADER[0] in removed
    return do.Reply(do.Phase.REQUEST_HEADERS, set_headers, removed, mode=mode, reroute=astray)


def uploaded(progress: Progress, event: on.RequestBody) -> Commands:
    """Watch a piece of an admitted request pass; the answer may have begun already."""
    if progress.upload is None:
        raise ProtocolViolation(f"a second body in state {progress.state.name}")
    if progress.evicted:
        return end.revoke(progress)
    progress.upload.feed(event.body)
    return (do.Reply(do.Phase.REQUEST_BODY),)
