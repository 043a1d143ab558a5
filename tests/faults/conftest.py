"""What the tests of faults share: the real stack, and where each of them says what it found."""

from __future__ import annotations

from tests.envoy.conftest import run_stack, work_dir

__all__ = ["run_stack", "work_dir"]
