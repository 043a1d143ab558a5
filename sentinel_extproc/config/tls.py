"""What the settings of a listener that serves TLS mean together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class TlsFiles(Protocol):
    """A section with a listener."""

    @property
    def tls_cert_file(self) -> Path | None: ...
    @property
    def tls_key_file(self) -> Path | None: ...
    @property
    def client_ca_file(self) -> Path | None: ...


def tls_faults(section: str, files: TlsFiles) -> list[str]:
    """Faults of the files; ``where: what is wrong``."""
    named = {
        "tls_cert_file": files.tls_cert_file,
        "tls_key_file": files.tls_key_file,
        "client_ca_file": files.client_ca_file,
    }
    faults = [
        f"{section}.{name}: {path} can't be read"
        for name, path in named.items()
        if path is not None and not os.access(path, os.R_OK)
    ]
    if (files.tls_cert_file is None) != (files.tls_key_file is None):
        faults.append(
            f"{section}.tls_cert_file: needs {section}.tls_key_file, and the other way round"
        )
    if files.client_ca_file is not None and files.tls_cert_file is None:
        faults.append(f"{section}.client_ca_file: needs {section}.tls_cert_file")
    return faults
