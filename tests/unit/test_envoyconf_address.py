"""Addresses: what is understood, what is refused and how that is said."""

from __future__ import annotations

import pytest

from sentinel_extproc.envoyconf.address import HostPort, SocketPath, parse_address, to_envoy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:/run/s.sock", SocketPath("/run/s.sock")),
        ("unix:///run/s.sock", SocketPath("/run/s.sock")),
        ("127.0.0.1:1", HostPort("127.0.0.1", 1)),
        ("sentinel.svc:65535", HostPort("sentinel.svc", 65535)),
        ("[::1]:80", HostPort("::1", 80)),
    ],
)
def test_understood(text: str, expected: SocketPath | HostPort) -> None:
    assert parse_address(text, parameter="p") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:run/s.sock",
        "unix:/" + "x" * 107,
        "host",
        ":80",
        "host:",
        "host:0",
        "host:65536",
        "host:8o",
        "host:٨٠",
        "::1:80",
        "a b:80",
        "http://host:80",
        "host\n:80",
    ],
)
def test_refused_naming_the_parameter(text: str) -> None:
    with pytest.raises(ValueError, match=r"^processors: "):
        parse_address(text, parameter="processors")


@pytest.mark.parametrize(
    ("host", "literal"),
    [("127.0.0.1", True), ("::1", True), ("localhost", False), ("1.2.3", False)],
)
def test_literals_need_no_dns(host: str, literal: bool) -> None:
    assert HostPort(host, 1).is_literal is literal


def test_envoys_types() -> None:
    assert to_envoy(SocketPath("/s")).to_dict() == {"pipe": {"path": "/s"}}
    assert to_envoy(HostPort("h", 9)).to_dict() == {
        "socketAddress": {"address": "h", "portValue": 9}
    }
