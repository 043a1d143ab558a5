"""The composition root's part about providers: the table and its keys, from the settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from sentinel_extproc.config.sections.providers import ProviderEntry
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.credentials.watch import KeyFile
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.providers import (
    Choose,
    Kind,
    Provider,
    ProviderTable,
    only,
    upstream_for,
)

DEFAULT = "default"
"""The name of the simple form, ``provider``, beside ``providers``."""


def provider_parts(settings: Settings) -> tuple[Choose, tuple[KeyFile, ...]]:
    """How providers are chosen, and the files to watch for it.

    Raises:
        ValueError: a file or the table can't be used any more.
    """
    files: list[KeyFile] = []
    simple = settings.provider
    default = None
    if simple.usable:
        default = _upstream(
            DEFAULT,
            Kind.OPENAI,
            simple.api_key,
            simple.api_key_file,
            files,
            tell_identity=simple.tell_identity,
        )
    if not settings.providers:
        if default is None:
            raise ValueError("provider.api_key is needed")
        return only(default, prefix=settings.endpoints.prefix), tuple(files)
    table = [_provider(entry, files) for entry in settings.providers]
    if default is not None:
        prefix = settings.endpoints.prefix
        table.append(Provider(DEFAULT, Kind.OPENAI, default, api_prefix=prefix))
    return ProviderTable(table), tuple(files)


def _provider(entry: ProviderEntry, files: list[KeyFile]) -> Provider:
    upstream = _upstream(
        entry.name,
        entry.kind,
        entry.api_key,
        entry.api_key_file,
        files,
        header=entry.key_header or "",
        tell_identity=entry.tell_identity,
    )
    return Provider(
        name=entry.name,
        kind=entry.kind,
        upstream=upstream,
        path_prefix=entry.path_prefix,
        api_prefix=entry.api_prefix or "",
        hosts=entry.hosts,
        models=entry.models,
    )


def _upstream(
    name: str,
    kind: Kind,
    key: SecretStr | None,
    file: Path | None,
    files: list[KeyFile],
    *,
    header: str = "",
    tell_identity: bool,
) -> Callable[[], Upstream]:
    def make(key: str | None) -> Upstream:
        return upstream_for(kind, key, header=header, tell_identity=tell_identity)

    if file is not None:
        files.append(KeyFile(name, file))
        return InTurn(files[-1], make)
    fixed = make(None if key is None else key.get_secret_value())
    return lambda: fixed


class InTurn:
    """The keys of a file, one after the other; a changed file's from the next request on."""

    def __init__(self, file: KeyFile, make: Callable[[str], Upstream]) -> None:
        self._file = file
        self._make = make
        self._keys: tuple[str, ...] = ()
        self._upstreams: tuple[Upstream, ...] = ()
        self._turn = 0

    def __call__(self) -> Upstream:
        keys = self._file.keys
        if keys is not self._keys:
            self._keys, self._upstreams = keys, tuple(self._make(key) for key in keys)
        self._turn = (self._turn + 1) % len(self._upstreams)
        return self._upstreams[self._turn]
