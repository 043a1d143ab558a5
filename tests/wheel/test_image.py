"""The image's last stage: a root with Python and the sidecar, and nothing to work with for others.

No container engine is needed: the root is made by the script that the Dockerfile runs, and entered
by chroot as the image's user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "image" / "bare.py"
UID = 10001
CHROOT = shutil.which("chroot") or "chroot"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")

# Loads libraries of the system, and modules that only some platforms have.
CHECK = """
import ctypes, json, os, sqlite3, ssl, sys
import sentinel_like
open("/run/sentinel/made", "w").close()
try:
    open("/etc/made", "w").close()
except PermissionError:
    print(json.dumps([os.getuid(), sentinel_like.__cached__ is not None, sys.prefix]))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The root, and the environment's path in it."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "sentinel_like.py").write_text("VALUE = 1\n")
    (site / "pip-1.dist-info").mkdir()
    (site / "pip").mkdir()
    made = tmp_path_factory.mktemp("image") / "root"
    subprocess.run(
        [
            *(environment / "bin" / "python", SCRIPT, "--environment", environment),
            *("--into", made, "--uid", str(UID), "--writable", "/run/sentinel"),
        ],
        check=True,
        timeout=120,
    )
    # Where Python lives on the machine that tests need not be open to others; in the image it is.
    for folder in made.rglob("*"):
        if folder.is_dir() and folder.stat().st_uid == 0 and folder != made / "tmp":
            folder.chmod(0o755)
    made.chmod(0o755)
    return made, environment


def inside(root: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CHROOT, f"--userspec={UID}:{UID}", root, *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={},
    )


def test_python_runs_in_it_as_the_images_user(root: tuple[Path, Path]) -> None:
    made, environment = root
    ran = inside(made, environment / "bin" / "python", "-c", CHECK)
    assert ran.stdout.strip() == f'[{UID}, true, "{environment}"]', ran.stderr


def test_there_is_no_shell_and_no_tool(root: tuple[Path, Path]) -> None:
    made, environment = root
    for shell in ("/bin/sh", "/bin/bash", "/usr/bin/env"):
        assert "No such file" in inside(made, shell, "-c", "true").stderr
    for module in ("pip", "ensurepip"):
        ran = inside(made, environment / "bin" / "python", "-m", module)
        assert "No module named" in ran.stderr
    programs = {
        path.name
        for path in made.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and path.stat().st_mode & 0o111
        and ".so" not in path.name
        and path.suffix != ".py"
    }
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert programs == {version}


def test_modules_are_compiled_for_a_root_that_is_read_only(root: tuple[Path, Path]) -> None:
    made, environment = root
    (site,) = (made / environment.relative_to("/") / "lib").glob("python*/site-packages")
    (compiled,) = (site / "__pycache__").glob("sentinel_like.*.pyc")
    # PEP 552: bit 0 says by hash, bit 1 that the source isn't looked at.
    assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00"
    assert str(made).encode() not in compiled.read_bytes()
