"""Which Envoys we render for, and what only newer ones understand.

Envoy refuses a whole configuration for one field that it doesn't know, so the target's version
decides what is written.
"""

from __future__ import annotations

import re

Version = tuple[int, int]
"""``(major, minor)``."""

OLDEST: Version = (1, 36)
NEWEST: Version = (1, 40)
"""The Envoy that the tests run on."""

CONTENT_LENGTH_SINCE: Version = (1, 38)
"""``allow_content_length_header`` of the ext_proc filter."""

_ISTIO_TO_ENVOY: dict[Version, Version] = {
    (1, 28): (1, 36),
    (1, 29): (1, 37),
    (1, 30): (1, 38),
    (1, 31): (1, 39),
    (1, 32): (1, 40),
}
"""Istio's minor releases carry Envoy's of eight numbers above. A vendor's build may differ: what a
proxy is built from, ``pilot-agent request GET server_info`` tells."""

_VERSION = re.compile(r"v?(\d{1,3})\.(\d{1,3})(?:\.\d{1,3})?")


def parse_version(text: str, *, parameter: str) -> Version:
    """Read ``1.38``, ``1.38.2`` or ``v1.38``.

    Raises:
        ValueError: anything else; the message names ``parameter``.
    """
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{parameter}: {text!r} is not a version such as {shown(NEWEST)}")
    return int(found[1]), int(found[2])


def check_envoy(version: Version) -> None:
    """Refuse what we don't render for.

    Raises:
        ValueError: older than we support, or newer than we know.
    """
    if not OLDEST <= version <= NEWEST:
        raise ValueError(
            f"envoy_version: {shown(version)} is not supported; "
            f"{shown(OLDEST)} to {shown(NEWEST)} are"
        )


def envoy_of_istio(version: Version) -> Version:
    """The Envoy that a release of Istio is built from.

    Raises:
        ValueError: not a release that we know.
    """
    envoy = _ISTIO_TO_ENVOY.get(version)
    if envoy is None:
        known = ", ".join(shown(release) for release in _ISTIO_TO_ENVOY)
        raise ValueError(
            f"istio_version: {shown(version)} is not supported; {known} are"
            " (or give the Envoy's own version)"
        )
    return envoy


def shown(version: Version) -> str:
    """``1.40``."""
    return f"{version[0]}.{version[1]}"
