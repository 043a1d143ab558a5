"""The admin port over TLS: verified in both directions."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner

from sentinel_extproc.admin import commands
from sentinel_extproc.admin.guard import Access, HostRule
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.admin.server import AdminServer, Tls
from sentinel_extproc.demo.certificates import Authority


async def status() -> dict[str, Any]:
    return {"version": "1"}


async def run(*arguments: object) -> tuple[int, str]:
    group = click.Group(commands=[commands.status])
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
