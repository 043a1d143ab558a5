"""Real Envoys for the tests of this folder, alone or with everything around them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sentinel_extproc.demo.envoy import RunningEnvoy, start_envoy
from sentinel_extproc.demo.stack import Stack, start_stack
from sentinel_extproc.envoyconf.api import bootstrap as bootstrap_api

StartStack = Callable[..., Stack]
StartEnvoy = Callable[..., RunningEnvoy]


@pytest.fixture
def work_dir() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="sx-envoy-") as folder:
        yield Path(folder)


@pytest.fixture
def run_envoy(work_dir: Path) -> Iterator[StartEnvoy]:
    """Starts Envoy with a bootstrap; stopped after the test."""
    with ExitStack() as running:

        def start(
            bootstrap: bootstrap_api.Bootstrap | Mapping[str, Any], *, concurrency: int = 1
        ) -> RunningEnvoy:
            return running.enter_context(
                start_envoy(bootstrap, work_dir=work_dir, concurrency=concurrency)
            )

        yield start


@pytest.fixture
def run_stack(work_dir: Path) -> Iterator[StartStack]:
    """Starts everything with options of `start_stack`; stopped after the test."""
    with ExitStack() as running:

        def start(**options: object) -> Stack:
            return running.enter_context(start_stack(work_dir=work_dir, **options))  # type: ignore[arg-type]

        yield start


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Everything, once for the whole test file, under a limit that no test reaches."""
    with (
        tempfile.TemporaryDirectory(prefix="sx-stack-") as folder,
        start_stack(
            work_dir=Path(folder), settings={"SENTINEL_LIMITS__REQUESTS": "100000"}
        ) as running,
    ):
        yield running
