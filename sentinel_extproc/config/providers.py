"""What the settings of providers mean together."""

from __future__ import annotations

from sentinel_extproc.config.settings import Settings
from sentinel_extproc.credentials.rotation import KeyFileError
from sentinel_extproc.credentials.watch import read_keys
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.providers import Kind, Provider, ProviderTable


def provider_faults(settings: Settings) -> list[str]:
    """Faults of ``provider`` and ``providers``; ``where: what is wrong``, never a key."""
    faults = []
    files = {"provider.api_key_file": settings.provider.api_key_file}
    for place, entry in enumerate(settings.providers):
        where = f"providers.{place}"
        files[f"{where}.api_key_file"] = entry.api_key_file
        if entry.api_key is not None and entry.api_key_file is not None:
            faults.append(f"{where}.api_key: not both of api_key and api_key_file")
        keyless = entry.api_key is None and entry.api_key_file is None
        if keyless and entry.kind is not Kind.COMPATIBLE:
            faults.append(f"{where}.api_key: is needed, or {where}.api_key_file")
    for where, file in files.items():
        if file is None:
            continue
        try:
            read_keys(file)
        except KeyFileError as error:
            faults.append(f"{where}: {file}: {error}")
    return faults + _table_faults(settings)


def _table_faults(settings: Settings) -> list[str]:
    table = [
        Provider(one.name, one.kind, _no_key, path_prefix=one.path_prefix, hosts=one.hosts)
        for one in settings.providers
    ]
    if table and settings.provider.usable:
        table.append(Provider("default", Kind.OPENAI, _no_key))
    try:
        ProviderTable(table)
    except ValueError as error:
        return [f"providers: {error}"]
    return []


def _no_key() -> Upstream:
    return Upstream(())
