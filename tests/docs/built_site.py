"""The site, built once for all tests of a run."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def build() -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Build as `make site` does, where a warning, such as a dead link or anchor, is a fault.

    Returns:
        Where it is, and what became of the build.
    """
    folder = Path(tempfile.mkdtemp(prefix="sx-site-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = ["-q", "-W", "--keep-going", "-d", str(folder / ".doctrees")]
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, "docs", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return folder, result
