"""What people install is the wheel: it must carry its data and run outside of the checkout."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from sentinel_extproc.tokens.encodings import count

ROOT = Path(__file__).parents[2]

CHECK = """
import json, sentinel_extproc
from sentinel_extproc.tokens.encodings import count
from sentinel_extproc.limits.store import redis
from importlib.resources import files
print(json.dumps({
    "file": sentinel_extproc.__file__,
    "counts": [count(name, "one <|endoftext|> two") for name in ("cl100k_base", "o200k_base")],
    "scripts": sorted(f.name for f in (files("sentinel_extproc") / "limits/scripts").iterdir()),
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (built,) = out.glob("*.whl")
    return built


def test_whoever_builds_it_gets_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    sources = tmp_path / "elsewhere"
    sources.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, sources)
    for name in ("proto", "sentinel_extproc"):
        # Neither dates nor what the group may do are copied, and leftovers of running are not.
        shutil.copytree(
            ROOT / name,
            sources / name,
            copy_function=shutil.copyfile,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)],
        cwd=sources,
        check=True,
        capture_output=True,
        timeout=120,
        umask=0o077,
    )
    again = tmp_path / wheel.name
    assert (
        hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()
    )


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; dependencies are lent by the one we run in."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python)),
            *("install", "--quiet", "--no-deps", "--no-index", str(wheel)),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (site,) = (folder / "lib").glob("python*/site-packages")
    # Appended, so that the wheel comes first; a .pth file of ours would run the editable hook.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(installed: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    return subprocess.run(
        [str(installed / "bin" / arguments[0]), *arguments[1:]],
        cwd=installed,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_wheel_carries_code_data_and_licence_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("limits/scripts/reserve.lua") for name in names)
    assert any("tokens/data/" in name and "o200k" in name for name in names)
    assert any(name.endswith("py.typed") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert all(name.startswith(("sentinel_extproc/", "sentinel_extproc-")) for name in names)


def test_what_is_imported_is_the_wheel_and_it_counts(installed: Path) -> None:
    result = run(installed, "python", "-c", CHECK)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert Path(found["file"]).is_relative_to(installed)
    assert found["counts"] == [
        count(name, "one <|endoftext|> two") for name in ("cl100k_base", "o200k_base")
    ]
    assert "reserve.lua" in found["scripts"]


@pytest.mark.parametrize(
    "command", [("sentinel-extproc",), ("python", "-m", "sentinel_extproc")], ids=["script", "-m"]
)
def test_the_command(installed: Path, command: tuple[str, ...]) -> None:
    help_text = run(installed, *command, "--help")
    assert help_text.returncode == 0, help_text.stderr
    for name in ("serve", "demo", "check-config"):
        assert name in help_text.stdout
    faulty = run(installed, *command, "check-config")
    assert faulty.returncode == 2
    assert "provider.api_key" in faulty.stderr
    good = run(
        installed,
        *command,
        "check-config",
        ZION_API_URL="http://zion",
        ZION_API_KEY="k",
        OPENAI_API_KEY="k",
    )
    assert good.returncode == 0, good.stderr
