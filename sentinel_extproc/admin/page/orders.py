"""What a form of the live page orders, and how that is told to people. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sentinel_extproc.admin.control import Effect, Target, describe, read_invalidate, read_revoke
from sentinel_extproc.admin.page.cells import counted, name


@dataclass(frozen=True, slots=True)
class Order:
    """To revoke, or else only to forget what is cached.

    Attributes:
        kind: of target, as the form calls it.
        streams: whether running answers shall end.
        confirmed: whether whoever gave it was asked; for everybody, by typing it.
    """

    target: Target
    kind: str
    reason: str
    revokes: bool
    streams: bool
    confirmed: bool

    @property
    def question(self) -> str:
        """Whether it is meant."""
        return f"{'Revoke' if self.revokes else 'Invalidate'} {_whom(self.target)}?"

    @property
    def by_typing(self) -> bool:
        """Whether a click is too little to confirm it."""
        return self.kind == "everybody"

    @property
    def prospect(self) -> str:
        """What it will do."""
        return _effect(revokes=self.revokes, kind=self.kind, streams=self.streams)

    @property
    def done(self) -> str:
        """What was done, in a word."""
        return "revoked" if self.revokes else "invalidated"

    def told(self, effect: Effect) -> str:
        """What was done, in full."""
        said = _said(effect, streams=self.streams)
        return f"{self.done.capitalize()}: {_whom(self.target)}. {said}"


def read_order(form: Mapping[str, str]) -> Order:
    """From the fields of a form.

    Raises: as ``control.read_revoke``.
    """
    revokes = form.get("action") == "revoke"
    kind, reason = form.get("kind", ""), form.get("reason", "")
    asked: dict[str, object] = {}
    if kind == "everybody":
        asked["everybody"] = True
    elif kind in ("user", "token_sha256"):
        asked[kind] = form.get("target", "").strip()
    streams = revokes and form.get("streams") == "yes"
    if revokes:
        asked |= {"streams": streams, "reason": reason}
        target = read_revoke(json.dumps(asked).encode()).target
    else:
        target = read_invalidate(json.dumps(asked).encode()).target
    confirmed = form.get("confirmed") == "yes"
    if kind == "everybody":
        confirmed = confirmed and form.get("typed") == "everybody"
    return Order(target, kind, reason, revokes, streams, confirmed)


def _whom(target: Target) -> str:
    described = describe(target)
    match described["kind"]:
        case "user":
            return f"user “{name(described['user']).text}”"
        case "token":
            return f"the token {described['token_sha256']}"
    return "everybody"


def _effect(*, revokes: bool, kind: str, streams: bool) -> str:
    if not revokes:
        return "What is cached is forgotten everywhere; the identity source is asked again."
    if kind == "token_sha256":
        return "The token is refused from the next request on, at every replica."
    ended = " Running answers are ended." if streams else " Running answers go on."
    return "Nothing that was cached is believed any more; the identity source decides." + ended


def _said(effect: Effect, *, streams: bool) -> str:
    where = (
        "It holds at every replica."
        if effect.everywhere
        else "It is not certain at every replica yet."
    )
    told = (
        "" if effect.replicas is None else f" Told at once: {counted(effect.replicas, 'replica')}."
    )
    return (
        where + told + (f" Ended: {counted(effect.streams, 'running answer')}." if streams else "")
    )
