"""Copies a Python, an environment and the libraries they load into a root of their own.

The Dockerfile's last stage is made of what this copies, and of nothing else: no shell, no package
manager, no tool that an intruder could use. Runs as root in a build stage, on glibc systems.
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Ignore = Callable[[str, list[str]], set[str]]

# Of Python itself: what only builds, installs, tests or draws, and packages of its own.
NOT_RUN = frozenset(
    {
        "ensurepip",
        "idlelib",
        "lib2to3",
        "macholib",
        "site-packages",
        "test",
        "tkinter",
        "turtledemo",
    }
)
PACKAGERS = frozenset({"pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack"})
# Certificates, time zones, OpenSSL's own files, and who is who; what is absent is left out.
SYSTEM = (
    *("/etc/ssl", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/os-release"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"),
    *("/usr/lib/ssl/openssl.cnf", "/usr/lib/ssl/certs", "/usr/lib/os-release"),
    *("/usr/share/ca-certificates", "/usr/share/zoneinfo"),
)
# Loaded by name while running, so that no file's own list of libraries tells of them.
LOADED_BY_NAME = ("libgcc_s.so.1", "libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")


def not_of_python(_folder: str, names: list[str]) -> set[str]:
    """For `shutil.copytree` of the standard library."""
    unused = {
        name for name in names if name.startswith(("config-", "_tkinter.", "_test", "_xxtest"))
    }
    return unused | (NOT_RUN | {"__pycache__"}) & set(names)


def not_of_environment(folder: str, names: list[str]) -> set[str]:
    """For `shutil.copytree` of the environment: all but what installs packages."""
    left = {"__pycache__"} & set(names)
    if Path(folder).name == "site-packages":
        left |= {name for name in names if name.partition("-")[0] in PACKAGERS}
        left |= {"distutils-precedence.pth"} & set(names)
    if Path(folder).name == "bin":
        left |= {name for name in names if not name.startswith(("python", "sentinel-extproc"))}
    return left


def elf_files(root: Path) -> Iterator[Path]:
    """Programs and libraries under a folder."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    if file.read(4) == b"\x7fELF":
                        yield path


def loader() -> Path:
    """The dynamic linker of this machine, by the name that programs ask for it."""
    for pattern in ("lib64/ld-linux-*.so.*", "lib/ld-linux-*.so.*"):
        for found in sorted(Path("/").glob(pattern)):
            return found
    raise SystemExit("no glibc here: /lib*/ld-linux-*.so.* is not to be found")


def libraries(files: Iterable[Path]) -> set[Path]:
    """The system's libraries that these files load, by the paths the linker finds them under."""
    found: set[Path] = set()
    for file in files:
        told = subprocess.run(
            [str(loader()), "--list", str(file)], check=False, capture_output=True, text=True
        )
        for line in told.stdout.splitlines():
            _, arrow, rest = line.partition("=>")
            path = (rest if arrow else line).strip().partition(" ")[0]
            if path.startswith("/"):
                found.add(Path(path))
    for name in LOADED_BY_NAME:
        found.update(beside / name for beside in {one.parent for one in found})
    return {path for path in found if path.exists()}


def left_out(ignore: Ignore | None, into: Path, folder: str, names: list[str]) -> set[str]:
    """What isn't wanted, and what is there already: two links may lead to one place."""
    there = into / Path(folder).relative_to("/")
    had = {name for name in names if os.path.lexists(there / name) and not (there / name).is_dir()}
    return had | (ignore(folder, names) if ignore is not None else set())


def place(path: Path, into: Path, ignore: Ignore | None = None) -> None:
    """Copies a file, link or folder to the same place under `into`, with what a link points to.

    Links in the folders above it are kept too: /lib is a link to usr/lib on Debian.
    """
    here = Path("/")
    for part in path.parts[1:]:
        here = here / part
        there = into / here.relative_to("/")
        if here.is_symlink():
            if not there.is_symlink():
                there.parent.mkdir(parents=True, exist_ok=True)
                there.symlink_to(here.readlink())
            beyond = Path(os.path.normpath(here.parent / here.readlink()))
            if beyond.exists():
                place(beyond / path.relative_to(here), into, ignore)
            return
        if here != path:
            there.mkdir(exist_ok=True)
    there = into / path.relative_to("/")
    if path.is_dir():
        shutil.copytree(
            path,
            there,
            symlinks=True,
            ignore=lambda folder, names: left_out(ignore, into, folder, names),
            dirs_exist_ok=True,
        )
    elif not there.exists():
        shutil.copy2(path, there)


def compiled(root: Path) -> None:
    """Compiles all modules: a read-only root would have them compiled at every start.

    Their hashes aren't checked at import, since nothing can change the sources.
    """
    compileall.compile_dir(
        root,
        quiet=2,
        stripdir=str(root),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        maxlevels=50,
    )


def owned(folder: Path, uid: int) -> None:
    """A folder that the sidecar's user alone may write to."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, uid, uid)
    folder.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, required=True, help="the virtual environment")
    parser.add_argument("--into", type=Path, required=True, help="the new root; must not exist")
    parser.add_argument("--uid", type=int, default=10001, help="who owns the folders below")
    parser.add_argument("--writable", type=Path, action="append", default=[])
    given = parser.parse_args()
    given.into.mkdir(parents=True)
    prefix = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    place(Path(os.path.realpath(sys.executable)), given.into)
    for name in ("python3", "python"):
        if (prefix / "bin" / name).is_symlink():
            place(prefix / "bin" / name, given.into)
    place(prefix / "lib" / version, given.into, not_of_python)
    place(given.environment.absolute(), given.into, not_of_environment)
    for file in sorted(libraries(elf_files(given.into))):
        place(file, given.into)
    place(loader(), given.into)
    for name in SYSTEM:
        if Path(name).exists():
            place(Path(name), given.into)
    compiled(given.into)
    for folder in given.writable:
        owned(given.into / folder.relative_to("/"), given.uid)
    temporary = given.into / "tmp"
    temporary.mkdir(exist_ok=True)
    temporary.chmod(0o1777)


if __name__ == "__main__":
    main()
