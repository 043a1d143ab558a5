"""Who is logged in to the page: a signed cookie, and a second secret that forms must carry.

The key is drawn when the process starts, so a restart logs everybody out. A cookie tells nothing
about the admin token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

LIFETIME_S = 3600
"""From logging in; nothing prolongs it."""

MAX_ENDED = 1000
"""Sessions that were ended before their time and must be remembered until then."""


@dataclass(frozen=True, slots=True)
class Session:
    """One log-in.

    Attributes:
        expires_at: seconds since the epoch.
    """

    id: str
    expires_at: int


class Sessions:
    """Begins, reads and ends sessions.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(
        self, *, lifetime_s: int = LIFETIME_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._ended: dict[str, int] = {}

    def begin(self) -> str:
        """A new session, as the cookie's value."""
        claim = f"{int(self._clock()) + self._lifetime_s}.{secrets.token_urlsafe(18)}"
        return f"{claim}.{self._mac('session', claim)}"

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None when it isn't ours, is over or was ended."""
        claim, _, mac = (cookie or "").rpartition(".")
        ours = self._mac("session", claim)
        if not _same(mac, ours):
            return None
        expires, _, session_id = claim.partition(".")
        if int(expires) <= self._clock() or session_id in self._ended:
            return None
        return Session(session_id, int(expires))

    def csrf(self, session: Session) -> str:
        """What a form of this session must carry: a foreign page can't know it."""
        return self._mac("csrf", session.id)

    def csrf_matches(self, session: Session, given: str) -> bool:
        """Whether a form is one of ours."""
        return _same(given, self.csrf(session))

    def end(self, session: Session) -> None:
        """Log out: the cookie is worth nothing from now on, whoever has a copy."""
        now = self._clock()
        self._ended = {id_: until for id_, until in self._ended.items() if until > now}
        if len(self._ended) >= MAX_ENDED:
            # Too many to remember: everybody logs in again.
            self._key, self._ended = secrets.token_bytes(32), {}
        self._ended[session.id] = session.expires_at

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, _bytes(f"{purpose}\0{text}"), hashlib.sha256).hexdigest()


def _same(given: str, ours: str) -> bool:
    return hmac.compare_digest(_bytes(given), _bytes(ours))


def _bytes(text: str) -> bytes:
    # Whatever somebody sends, lone surrogates included, it must only fail to match.
    return text.encode("utf-8", "surrogatepass")


def same_origin(*, origin: str | None, host: str | None) -> bool:
    """Whether a form was sent by a page of this very host and port.

    Args:
        origin: the Origin header; browsers send it with every POST, so without one it is no form.
        host: the Host header, checked before to be a name of ours.
    """
    if not origin or not host:
        return False
    scheme, separator, rest = origin.partition("://")
    return separator == "://" and scheme in ("http", "https") and rest.lower() == host.lower()
