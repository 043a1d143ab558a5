"""A gateway on this machine to load: ``sentinel-extproc load --demo``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sentinel_extproc.demo.process import StartError
from sentinel_extproc.demo.stack import start_stack
from sentinel_extproc.demo.zion_state import ZionUser
from sentinel_extproc.loadtest.command import DemoGateway

USERS = 200
TOKEN = "load-{n}"  # noqa: S105 - the stand-in's users
CHUNK_DELAY_S = 0.01
_POLICY = """
rules:
  - limits:
      - {name: requests, unit: requests, kind: bucket, limit: 300, burst: 20, per: 1m}
      - {name: tokens, unit: total_tokens, kind: ring, limit: 1000000, per: 1m}
"""


@contextmanager
def load_gateway() -> Iterator[DemoGateway]:
    """Everything on this machine, as the demo has it, with 200 users of 5 requests per second.

    Ends the command with code 1 if it can't be started.
    """
    folder = Path(tempfile.mkdtemp(prefix="sentinel-load-"))
    try:
        policy = folder / "policy.yaml"
        policy.write_text(_POLICY, encoding="utf-8")
        users = [
            ZionUser(TOKEN.replace("{n}", str(n)), f"u{n}", f"ext-{n}", f"u{n}@example.com", "Load")
            for n in range(USERS)
        ]
        click.echo("starting a gateway with stand-ins to load", err=True)
        with start_stack(
            work_dir=folder,
            users=users,
            settings={
                "SENTINEL_LIMITS__POLICY_FILE": str(policy),
                "SENTINEL_LIMITS__ZION_QUOTAS": "false",
            },
            chunk_delay_s=CHUNK_DELAY_S,
        ) as stack:
            yield DemoGateway(
                target=stack.url,
                users={"token": TOKEN, "count": USERS},
                headers={"x-standin-tokens": "{output_tokens}"},
            )
    except StartError as fault:
        click.echo(f"sentinel-extproc load: {fault}", err=True)
        sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
