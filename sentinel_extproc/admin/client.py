"""Calls the admin port of a running sidecar; the command line's only I/O."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

MAX_ANSWER_BYTES = 16 << 20


class AdminError(Exception):
    """A call that did not do what it should."""


class AdminUnreachable(AdminError):
    """Nobody answered, or nobody that is an admin port."""


class AdminRefused(AdminError):
    """The admin port said no; the message is its own.

    Attributes:
        status: of HTTP.
        code: of the error.
        retry_after_s: of a 429, which changed nothing: when to ask again; None if it doesn't say.
    """

    def __init__(
        self, message: str, *, status: int, code: str, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """PEM files for https; None for the system's authorities and no client certificate."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def address_of(listen: str, *, tls: bool = False) -> str:
    """Where to reach what listens at ``listen`` (``host:port`` or ``unix:/path``) from here."""
    if listen.startswith("unix:"):
        return listen
    host, _, port = listen.rpartition(":")
    everywhere = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - asked, not bound
    return f"{'https' if tls else 'http'}://{everywhere.get(host, host)}:{port}"


def call(
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    address: str,
    token: str | None = None,
    timeout_s: float = 15.0,
    tls: TlsOptions | None = None,
) -> dict[str, Any]:
    """Make one call.

    Args:
        address: ``http://host:port``, ``https://host:port`` or ``unix:/path``.
        timeout_s: a little longer than the admin port gives itself.

    Raises:
        AdminRefused: it was refused.
        AdminUnreachable: it can't be told what became of it.
        ValueError: the address or a certificate can't be used.
    """
    answer = _fetch(method, path, body, address=address, token=token, timeout_s=timeout_s, tls=tls)
    return _read(address, answer)


def metrics(
    *,
    address: str,
    token: str | None = None,
    timeout_s: float = 15.0,
    tls: TlsOptions | None = None,
) -> str:
    """The text of ``/metrics``; arguments and errors as of ``call``."""
    answer = _fetch(
        "GET", "/metrics", None, address=address, token=token, timeout_s=timeout_s, tls=tls
    )
    if answer.status >= 400:
        _read(address, answer)
    return answer.content.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content: bytes
    retry_after: str


def _fetch(
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    *,
    address: str,
    token: str | None,
    timeout_s: float,
    tls: TlsOptions | None,
) -> _Answer:
    base, transport = transport_to(address, tls)
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        # Proxies of the environment are not used: the token goes to the admin port alone.
        with (
            httpx.Client(
                base_url=base, transport=transport, timeout=timeout_s, trust_env=False
            ) as client,
            client.stream(method, path, json=body, headers=headers) as answer,
        ):
            content = bytearray()
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise AdminUnreachable(f"{address} answered with far too much")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AdminUnreachable(f"{address}: {str(error) or type(error).__name__}") from error
    return _Answer(answer.status_code, bytes(content), answer.headers.get("retry-after", ""))


def transport_to(address: str, tls: TlsOptions | None = None) -> tuple[str, httpx.HTTPTransport]:
    """The base URL and transport for an address as in ``call``.

    Raises:
        AdminUnreachable: nobody is at a Unix socket.
        ValueError: the address or a certificate can't be used.
    """
    tls = tls or TlsOptions()
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        _try_socket(address, path)
        return "http://localhost", httpx.HTTPTransport(uds=path)
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ValueError(f"{address!r} is not http://host:port, https://host:port or unix:/path")
    _ = parts.port
    if parts.scheme == "http":
        return address, httpx.HTTPTransport()
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"a certificate can't be used: {error}") from error
    return address, httpx.HTTPTransport(verify=context)


def _try_socket(address: str, path: str) -> None:
    # httpcore leaves the socket of a failed attempt open, and says less about why.
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(path)
        except OSError as error:
            raise AdminUnreachable(f"{address}: {error.strerror or error}") from error


def _read(address: str, answer: _Answer) -> dict[str, Any]:
    status, again = answer.status, answer.retry_after
    try:
        told = json.loads(answer.content)
        if status < 400:
            return dict(told)
        error = told["error"]
        message, code = str(error["message"]), str(error["code"])
    except (ValueError, TypeError, KeyError):
        raise AdminUnreachable(f"{address} is not an admin port (status {status})") from None
    # A date is never ours; more digits than a day's seconds have neither.
    told_s = int(again) if again.isascii() and again.isdigit() and len(again) < 6 else None
    again_s = None if told_s is None else max(1, told_s)  # at once would be for ever
    raise AdminRefused(message, status=status, code=code, retry_after_s=again_s)
