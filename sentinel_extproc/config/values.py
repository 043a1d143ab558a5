"""Kinds of values that settings have, and how each is checked."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
)

from sentinel_extproc.limits.store.connect import build_client

_SECRET = re.compile(r"[\x21-\x7e]+")
_LISTEN = re.compile(r"unix:(?://)?/[^\0\s]+|(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
MAX_SOCKET_PATH = 107  # sockaddr_un of Linux, less the terminator


def _check_http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:  # whose text may quote a password
        raise ValueError("must be a URL with a valid host and port") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL with a host")
    if parts.username or parts.password:
        raise ValueError("must not carry credentials; they have settings of their own")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment")
    return value.rstrip("/")


def _check_redis_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        if "+" not in parts.scheme:  # those have a list of hosts, which has no port
            _ = parts.port
        build_client(value)  # connects to nothing
    except ValueError:
        # Its text may quote a password that has a slash in it.
        raise ValueError(
            "must be a redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// URL"
            " (user and password percent-encoded)"
        ) from None
    if "password" in parts.query.lower():
        raise ValueError("must have the password in front of the host, not in the query")
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("must name the socket's path")
    return value


def _masked_url(value: str) -> str:
    # By hand: the host part of a Cluster's URL is a list, which urlsplit doesn't know.
    scheme, _, rest = value.partition("://")
    credentials, at, place = rest.rpartition("@")
    if ":" not in credentials:
        return value
    return f"{scheme}://{credentials.partition(':')[0]}:**********{at}{place}"


def _check_listen(value: str) -> str:
    found = _LISTEN.fullmatch(value)
    if found is None:
        raise ValueError("must be unix:/absolute/path or host:port")
    if found[1] is not None and not 1 <= int(found[1]) <= 65535:
        raise ValueError("must have a port between 1 and 65535")
    if value.startswith("unix:"):
        path = value.removeprefix("unix:").removeprefix("//")
        if len(path.encode()) > MAX_SOCKET_PATH:
            raise ValueError(f"socket paths are limited to {MAX_SOCKET_PATH} bytes")
    return value


def _octal(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return int(value.lower().removeprefix("0o"), 8)
        except ValueError:
            raise ValueError("must be an octal number such as 0660") from None
    return value


def _check_workers(value: Any) -> Any:
    # Here, as a choice between a number and a word is told of as two faults.
    if value != "auto" and not re.fullmatch(r"0*([1-9]|[1-5]\d|6[0-4])", str(value).strip()):
        raise ValueError("must be a number from 1 to 64, or auto")
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _check_secret(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if not secret:
        raise ValueError("must not be empty")
    if not _SECRET.fullmatch(secret):
        raise ValueError("must be visible ASCII without blanks or line breaks")
    return value


def _check_prefix(value: str) -> str:
    if not re.fullmatch(r"/(?:[A-Za-z0-9._~-]+/)*", value):
        raise ValueError("must be a path that begins and ends with a slash")
    return value


HttpUrl = Annotated[str, AfterValidator(_check_http_url)]
RedisUrl = Annotated[str, AfterValidator(_check_redis_url), PlainSerializer(_masked_url)]
Listen = Annotated[str, AfterValidator(_check_listen)]
Secret = Annotated[SecretStr, AfterValidator(_check_secret)]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*$", max_length=253)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
Workers = Annotated[
    Annotated[int, Field(ge=1, le=64)] | Literal["auto"], BeforeValidator(_check_workers)
]
FileMode = Annotated[
    int,
    BeforeValidator(_octal),
    Field(ge=0, le=0o777),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str, when_used="json"),
]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
PathPrefix = Annotated[str, AfterValidator(_check_prefix)]
