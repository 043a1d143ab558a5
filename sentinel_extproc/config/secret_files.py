"""Settings from a folder with one file each, as Kubernetes mounts a Secret."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

MAX_BYTES = 64 << 10
"""Far more than any secret; a wrong file must not be read whole."""

_NAME = re.compile(r"([a-z_]+)\.([a-z_]+)")


def read_secret_files(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Values by section and name, and what is wrong; never a value in a fault.

    A file is called ``<section>.<name>``. One line break at its end isn't part of the value. Names
    with a dot in front are passed over: Kubernetes keeps its own files under such.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        return {}, [f"{folder}: {error.strerror}"]
    for file in files:
        found = _NAME.fullmatch(file.name)
        if found is None:
            faults.append(f"{file}: must be called <section>.<name>, as provider.api_key")
            continue
        try:
            with file.open("rb") as opened:
                raw = opened.read(MAX_BYTES + 1)
            if len(raw) > MAX_BYTES:
                faults.append(f"{file}: larger than {MAX_BYTES} bytes")
                continue
            text = raw.decode("utf-8")
        except OSError as error:
            faults.append(f"{file}: {error.strerror}")
        except UnicodeDecodeError:
            faults.append(f"{file}: not UTF-8")
        else:
            values.setdefault(found[1], {})[found[2]] = text.removesuffix("\n").removesuffix("\r")
    return values, faults
