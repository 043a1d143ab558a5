"""The live page's style, script and icon, under names with their hash."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files as package_files

from sentinel_extproc.admin.page import documents


def assets() -> tuple[dict[str, tuple[bytes, str]], documents.Files]:
    """Files by the names that they are served under, and where pages find them."""
    found: dict[str, tuple[bytes, str]] = {}
    where: dict[str, tuple[str, str]] = {}
    for file, media_type in (
        ("page.css", "text/css"),
        ("page.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        content = package_files(__package__).joinpath("static", file).read_bytes()
        digest = hashlib.sha256(content)
        stem, _, ending = file.partition(".")
        served = f"{stem}-{digest.hexdigest()[:16]}.{ending}"
        found[served] = content, media_type
        integrity = f"sha256-{base64.b64encode(digest.digest()).decode()}"
        where[file] = f"/static/{served}", integrity
    return found, documents.Files(where["page.css"], where["page.js"], where["icon.svg"][0])
