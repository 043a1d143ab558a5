"""The admin port over TLS: verified in both directions."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sentinel_extproc.admin.commands import COMMANDS
from sentinel_extproc.admin.guard import Access, HostRule
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.admin.server import AdminServer, Tls


@dataclass(frozen=True)
class Issued:
    certificate: Path
    key: Path


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


class Authority:
    """Issues certificates for 127.0.0.1."""

    def __init__(self, folder: Path, title: str) -> None:
        self._folder = folder
        self._title = title
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{title}.pem"
        self.file.write_bytes(self._pem(self._sign(title, self._key, ca=True)))

    def issue(self, title: str) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        issued = Issued(self._folder / f"{title}.crt", self._folder / f"{title}.key")
        issued.certificate.write_bytes(self._pem(self._sign(title, key, ca=False)))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return issued

    def _sign(self, title: str, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder()
            .subject_name(name(title))
            .issuer_name(name(self._title))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _pem(self, certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(serialization.Encoding.PEM)


async def status() -> dict[str, Any]:
    return {"version": "1"}


async def run(*arguments: object) -> tuple[int, str]:
    group = click.Group(commands=COMMANDS)
    shown = await asyncio.to_thread(CliRunner().invoke, group, [str(each) for each in arguments])
    return shown.exit_code, shown.output


@pytest.mark.parametrize("mutual", [False, True])
async def test_who_may_connect(tmp_path: Path, mutual: bool) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server_files = ours.issue("server")
    app = admin_app(
        exposition=lambda _: (b"", "text/plain"),
        checks={},
        status=status,
        access=Access(token=None, trusted_peers=mutual),
        hosts=HostRule(),
    )
    server = AdminServer(
        app,
        listen="127.0.0.1:0",
        tls=Tls(server_files.certificate, server_files.key, ours.file if mutual else None),
    )
    await server.start()
    address = f"https://127.0.0.1:{server.port}"
    call = ("status", "--json", "--admin", address)
    trusting = (*call, "--ca-file", ours.file)
    client, stranger = ours.issue("client"), theirs.issue("stranger")

    code, output = await run(*trusting, "--cert-file", client.certificate, "--key-file", client.key)
    if mutual:
        assert (code, json.loads(output)) == (0, {"version": "1"})
    else:
        # Encrypted, but nobody has vouched for the caller.
        assert (code, json.loads(output)["error"]["code"]) == (1, "admin_token_not_configured")
    without, _ = await run(*trusting)
    assert without == (3 if mutual else 1)
    other, _ = await run(*trusting, "--cert-file", stranger.certificate, "--key-file", stranger.key)
    assert other == (3 if mutual else 1)
    # A server that we can't verify gets no call at all.
    assert (await run(*call, "--ca-file", theirs.file))[0] == 3
    assert (await run(*call))[0] == 3
    async with httpx.AsyncClient(trust_env=False) as plain:
        with pytest.raises(httpx.TransportError):
            await plain.get(f"http://127.0.0.1:{server.port}/healthz")
    await server.aclose()
