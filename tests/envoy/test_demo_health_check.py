"""The health check of docker-compose.yml, against a sidecar that runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from sentinel_extproc.demo.stack import Stack

COMPOSE = Path(__file__).resolve().parents[2] / "docker-compose.yml"


def test_it_passes_while_the_sidecar_serves(stack: Stack) -> None:
    sidecar = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]["sidecar"]
    code = sidecar["healthcheck"]["test"][-1]
    listen = sidecar["environment"]["SENTINEL_SERVER__LISTEN"]
    assert listen in code
    code = code.replace(listen, stack.sidecar.address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
