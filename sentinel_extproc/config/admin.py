"""What the admin port's settings mean together: its token, and which of them can't go together."""

from __future__ import annotations

import ipaddress
import os
import re

from sentinel_extproc.config.sections.operating import AdminSettings
from sentinel_extproc.config.tls import tls_faults

MIN_TOKEN_CHARS = 24
"""Too many to be found by trying at any pace, if they were drawn at random: 96 bits in hexadecimal.
Nothing else keeps a guesser off, since whoever has the token is never made to wait."""

_TOKEN = re.compile(rf"[\x21-\x7e]{{{MIN_TOKEN_CHARS},512}}")


def admin_token(admin: AdminSettings) -> str | None:
    """The token, from the setting or the file.

    Raises:
        OSError, ValueError: the file can't be read, or has no usable token in it.
    """
    if admin.token is not None:
        token = admin.token.get_secret_value()
    elif admin.token_file is not None:
        with admin.token_file.open("rb") as file:
            token = file.read(1024).decode("ascii").strip()
    else:
        return None
    if _TOKEN.fullmatch(token) is None:
        raise ValueError(
            f"must have {MIN_TOKEN_CHARS} to 512 visible ASCII characters, drawn at random;"
            " make one with: openssl rand -hex 32"
        )
    return token


def admin_faults(admin: AdminSettings) -> list[str]:
    """Faults that no single setting shows; ``where: what is wrong``."""
    if not admin.enabled:
        return []
    faults = tls_faults("admin", admin)
    if admin.token_file is not None and not os.access(admin.token_file, os.R_OK):
        faults.append(f"admin.token_file: {admin.token_file} can't be read")
    if admin.token is not None and admin.token_file is not None:
        faults.append("admin.token_file: there is an admin.token already")
    try:
        has_token = admin_token(admin) is not None
    except OSError:
        has_token = True  # told above
    except UnicodeDecodeError:
        has_token = True
        faults.append("admin.token_file: must have one token of visible ASCII in it")
    except ValueError as error:
        has_token = True
        faults.append(f"admin.{'token_file' if admin.token is None else 'token'}: {error}")
    tls = admin.tls_cert_file is not None
    if has_token and not (tls or admin.cleartext_token or _stays_here(admin.listen)):
        faults.append(
            "admin.listen: the admin token would cross the network in clear; listen on loopback or"
            " a Unix socket, set admin.tls_cert_file, or admin.cleartext_token if a mesh encrypts"
        )
    return faults


def _stays_here(listen: str) -> bool:
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
