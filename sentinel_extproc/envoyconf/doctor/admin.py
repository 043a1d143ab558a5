"""Asks a running Envoy's admin interface."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import httpx

from sentinel_extproc.admin.client import AdminUnreachable, transport_to
from sentinel_extproc.envoyconf.doctor.reading import Unreadable
from sentinel_extproc.envoyconf.doctor.snapshot import (
    Snapshot,
    from_document,
    read_observed_names,
    read_stats,
    read_version,
)
from sentinel_extproc.envoyconf.doctor.stats_checks import FILTER

MAX_ANSWER_BYTES = 256 << 20
"""Of each answer; a mesh's whole config dump is some tens of MiB."""

TIMEOUT_S = 60.0
"""For all of it: Envoy's main thread writes a large dump in some seconds."""


class Unreachable(Exception):
    """Nobody answered, or nobody that is an Envoy."""


def load_admin(address: str, *, timeout_s: float = TIMEOUT_S) -> Snapshot:
    """Read everything that is looked at.

    Args:
        address: ``http://host:port``, ``https://host:port`` or ``unix:/path``.

    Raises:
        Unreachable: no answer in time, too large a one, or none of an Envoy's.
        Unreadable: what it says can't be understood.
        ValueError: the address can't be used.
    """
    try:
        base, transport = transport_to(address)
    except AdminUnreachable as error:
        raise Unreachable(str(error)) from error
    deadline = time.monotonic() + timeout_s
    with httpx.Client(
        base_url=base.rstrip("/"), transport=transport, timeout=10.0, trust_env=False
    ) as client:
        dump = _json(_get(client, "/config_dump?include_eds", address, deadline), address)
        if not isinstance(dump, dict) or not isinstance(dump.get("configs"), list):
            raise Unreachable(f"{address} is not Envoy's admin interface")
        info = _json(_get(client, "/server_info", address, deadline), address)
        stats = _get(client, f"/stats?usedonly&filter={quote(FILTER)}", address, deadline)
        clusters = _json(_get(client, "/clusters?format=json", address, deadline), address)
    version, state = read_version(info)
    return Snapshot(
        config=from_document(dump).config,
        complete=True,
        version=version,
        state=state,
        stats=read_stats(stats.decode("utf-8", "replace")),
        observed_as=read_observed_names(clusters),
    )


def _get(client: httpx.Client, path: str, address: str, deadline: float) -> bytes:
    content = bytearray()
    try:
        with client.stream("GET", path) as answer:
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise Unreachable(f"{address}{path} answered with far too much")
                if time.monotonic() > deadline:
                    raise Unreachable(f"{address}{path} took too long")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(f"{address}: {str(error) or type(error).__name__}") from error
    if answer.status_code != httpx.codes.OK:
        raise Unreachable(f"{address}{path} answered {answer.status_code}: is it Envoy's admin?")
    return bytes(content)


def _json(content: bytes, address: str) -> Any:
    try:
        return json.loads(content)
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error
    except ValueError as error:
        raise Unreachable(f"{address} is not Envoy's admin interface") from error
