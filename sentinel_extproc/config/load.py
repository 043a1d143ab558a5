"""Settings from environment and file, with every fault found at once.

Precedence: environment over the predecessor's names over a folder of secrets over file over
defaults. In the environment a setting is ``SENTINEL_<SECTION>__<NAME>``; in the folder that
``SENTINEL_SECRETS_DIR`` names, a file called ``<section>.<name>``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sentinel_extproc.config.admin import admin_faults
from sentinel_extproc.config.identity import identity_faults
from sentinel_extproc.config.policy import policy_faults
from sentinel_extproc.config.providers import provider_faults
from sentinel_extproc.config.secret_files import read_secret_files
from sentinel_extproc.config.sections import Section
from sentinel_extproc.config.sections.limits import LimitSettings
from sentinel_extproc.config.sections.providers import UNSET
from sentinel_extproc.config.sections.serving import Metering, Mode, ServerSettings, TransportName
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.config.tls import tls_faults
from sentinel_extproc.config.tracing import tracing_faults
from sentinel_extproc.config.values import MAX_SOCKET_PATH
from sentinel_extproc.config.workers import worker_addresses, worker_count
from sentinel_extproc.tokens.models import ModelTable, ModelTableError
from sentinel_extproc.usage.prices_file import PricesFileError, load_prices

FILE_VARIABLE = "SENTINEL_CONFIG"
SECRETS_VARIABLE = "SENTINEL_SECRETS_DIR"
MAX_FILE_BYTES = 1 << 20

PREDECESSOR = {
    "ZION_API_URL": ("zion", "url"),
    "ZION_API_KEY": ("zion", "api_key"),
    "REDIS_URL": ("redis", "url"),
    "OPENAI_API_KEY": ("provider", "api_key"),
    "OPENAI_API_URL": ("provider", "url"),
    "CACHE_TTL_SECONDS": ("identity", "fresh_seconds"),
    "JWT_CACHE_TTL_SECONDS": ("identity", "jwt_fresh_seconds"),
}
"""Names of the Rust proxy that this replaces, and where their values go."""

UNSET_URL = "http://unset.invalid"
"""In place of Zion's address."""

_UNNEEDED_TO_RENDER = {
    "provider": {"api_key": UNSET},
    "zion": {"url": UNSET_URL, "api_key": UNSET},
}

_S = TypeVar("_S", bound=Section)
_B = TypeVar("_B", bound=BaseSettings)
_PREFIX = "SENTINEL_"
_NOT_SETTINGS = ("SENTINEL_CONFIG", SECRETS_VARIABLE, "SENTINEL_DEMO_", "SENTINEL_TEST_")


class ConfigError(Exception):
    """The configuration can't be used.

    Attributes:
        faults: one line each, ``where: what is wrong``; without values, which may be secrets.
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def named_file(file: Path | None = None) -> Path | None:
    """``file``, else the one that ``SENTINEL_CONFIG`` names, if any."""
    if file is None and (named := os.environ.get(FILE_VARIABLE)):
        return Path(named)
    return file


def _sourced(base: type[_B], *values: dict[str, Any]) -> type[_B]:
    """``base``, read from the environment and then from ``values``, the first having the last word.

    A class, because that is how sources are given.
    """

    class Sourced(base):  # type: ignore[valid-type, misc]
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            lower = (InitSettingsSource(settings_cls, one) for one in values)
            return (_Environment(settings_cls), *lower)

    return Sourced


def load(file: Path | None = None, *, to_serve: bool = True) -> Settings:
    """Read and check all settings.

    Args:
        file: a YAML file; else the one that ``SENTINEL_CONFIG`` names; else none.
        to_serve: False where configuration is only rendered from them: then no secret is needed,
            and files that they name needn't be on this machine.

    Raises:
        ConfigError: with every fault that was found.
    """
    faults = _unknown_names()
    file = named_file(file)
    from_file: dict[str, Any] = {}
    unread = False
    if file is not None:
        try:
            from_file = _read_file(file)
        except ConfigError as error:
            faults += error.faults
            unread = True
    secrets: dict[str, Any] = {}
    if folder := os.environ.get(SECRETS_VARIABLE):
        secrets, secret_faults = read_secret_files(Path(folder))
        faults += secret_faults

    several = bool(from_file.get("providers")) or f"{_PREFIX}PROVIDERS" in os.environ

    needed = _needed(several) if to_serve else _UNNEEDED_TO_RENDER
    sourced = _sourced(Settings, _from_predecessor(), secrets, from_file, needed)
    try:
        settings = sourced()
    except ValidationError as error:
        # What is missing may well be in a file that can't be read.
        found = [item for item in error.errors() if not (unread and item["type"] == "missing")]
        faults += [_fault(item) for item in found]
        if to_serve and not unread:
            faults += _policy_faults_at_least(file)
        raise ConfigError(faults) from None
    if to_serve:
        faults += _cross_checks(settings)
    if faults:
        raise ConfigError(faults)
    return settings


def load_section(name: str, section: type[_S], file: Path | None = None) -> _S:
    """One section from the same sources, for who needs no other: faults elsewhere don't matter.

    Raises:
        ConfigError: with every fault of this section, or why a source can't be read.
    """
    file = named_file(file)
    from_file = {} if file is None else _read_file(file)
    folder = os.environ.get(SECRETS_VARIABLE)
    secrets, faults = ({}, []) if folder is None else read_secret_files(Path(folder))
    if faults:
        raise ConfigError(faults)

    class Base(BaseSettings):
        """What it has in common with ``Settings``."""

        model_config = SettingsConfigDict(**(Settings.model_config | {"extra": "ignore"}))

    base = _sourced(Base, _from_predecessor(), secrets, {name: {}} | from_file)
    made = create_model("OneSection", __base__=base, **{name: (section, ...)})  # type: ignore[call-overload]
    try:
        found = getattr(made(), name)
    except ValidationError as error:
        raise ConfigError([_fault(item) for item in error.errors()]) from None
    assert isinstance(found, section)  # noqa: S101 - validated as one
    return found


def only(values: dict[str, Any]) -> Settings:
    """Settings to render from, made of these values and nothing that is around.

    Raises:
        ConfigError: with every fault that was found.
    """

    class Given(Settings):
        """Settings with no source but these."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (
                InitSettingsSource(settings_cls, values),
                InitSettingsSource(settings_cls, _UNNEEDED_TO_RENDER),
            )

    try:
        return Given()
    except ValidationError as error:
        raise ConfigError([_fault(item) for item in error.errors()]) from None


def _needed(several: bool) -> dict[str, Any]:
    """Sections that are there in any case, so that what is missing in them is reported by name."""
    return {"provider": {"api_key": UNSET} if several else {}, "zion": {}}


class _Environment(EnvSettingsSource):
    """Leaves text that isn't JSON to validation, which lists all faults, instead of giving up."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def _unknown_names() -> list[str]:
    """Names under our prefix that are no setting: most likely misspelt, so never passed over."""
    sections = set(Settings.model_fields)
    return [
        f"{name}: there is no such setting"
        for name in sorted(os.environ)
        if name.startswith(_PREFIX)
        and not name.startswith(_NOT_SETTINGS)
        and name.removeprefix(_PREFIX).lower().partition("__")[0] not in sections
    ]


def _from_predecessor() -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, (section, field) in PREDECESSOR.items():
        if name in os.environ:
            values.setdefault(section, {})[field] = os.environ[name]
    return values


def _read_file(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError([f"{file}: larger than {MAX_FILE_BYTES} bytes"])
        text = file.read_text("utf-8")
    except OSError as error:
        raise ConfigError([f"{file}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{file}: not UTF-8"]) from None
    try:
        value = yaml.load(text, _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ConfigError([f"{file}: not valid YAML: {error.problem}{place}"]) from None
    except yaml.YAMLError:
        raise ConfigError([f"{file}: not valid YAML"]) from None
    except RecursionError:
        raise ConfigError([f"{file}: nested too deep"]) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError([f"{file}: must be a mapping of sections"])
    return value


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML forbids a key twice in one mapping; PyYAML lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    problem="a key that is not text", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} is there twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _fault(error: Any) -> str:
    location = error["loc"]
    path = ".".join(str(part) for part in location)
    names = [f"{_PREFIX}{'__'.join(str(part) for part in location)}".upper()]
    names += [name for name, target in PREDECESSOR.items() if target == location]
    used = next((name for name in names if name in os.environ), None)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        message = "is needed"
        if all(
            isinstance(part, str) for part in location
        ):  # what stands in a list has no name in the environment
            message += f" (set it in the file, or as {' or '.join(reversed(names))})"
    elif error["type"] in ("dict_type", "model_type"):
        message = "must be a mapping (in the environment a JSON object)"
    elif error["type"] == "tuple_type":
        message = "must be a list (in the environment a JSON array)"
    elif error["type"] == "extra_forbidden":
        message = "there is no such setting"
    return f"{path}: {message}" + (f" (from {used})" if used else "")


def _server_faults(server: ServerSettings) -> list[str]:
    faults = tls_faults("server", server)
    grpcio = server.transport is TransportName.GRPCIO
    if server.reflection and not grpcio:
        faults.append("server.reflection: needs server.transport: grpcio")
    if server.metering is Metering.NATIVE and grpcio:
        faults.append("server.metering: native needs server.transport: native")
    if server.metering is Metering.NATIVE and server.mode is Mode.SHADOW:
        faults.append("server.metering: native needs server.mode: enforce")
    if server.workers != 1 and grpcio:
        faults.append("server.workers: more than 1 needs server.transport: native")
    faults += _address_faults(server)
    return faults


def _overload_faults(settings: Settings) -> list[str]:
    most = settings.overload.max_exchanges
    if most is not None and most >= settings.server.max_streams:
        return ["overload.max_exchanges: must be below server.max_streams"]
    return []


def _address_faults(server: ServerSettings) -> list[str]:
    try:
        last = worker_addresses(server.listen, worker_count(server.workers))[-1]
    except ValueError as error:
        return [f"server.workers: {error}"]
    path = last.removeprefix("unix:").removeprefix("//")
    if path.startswith("/") and len(path.encode()) > MAX_SOCKET_PATH:
        return [f"server.workers: {last} is longer than the {MAX_SOCKET_PATH} bytes of a socket"]
    return []


def _policy_faults_at_least(file: Path | None) -> list[str]:
    """Those of the policy, where other settings have faults; none if its own section has."""
    try:
        limits = load_section("limits", LimitSettings, file)
    except ConfigError:
        return []
    return policy_faults(limits.policy_file)


def _cross_checks(settings: Settings) -> list[str]:
    """Faults that no single setting shows."""
    faults = []
    if settings.zion.deadline_seconds >= settings.server.decision_timeout_seconds:
        faults.append("zion.deadline_seconds: must be below server.decision_timeout_seconds")
    faults += _server_faults(settings.server)
    faults += _overload_faults(settings)
    if settings.limits.learned_output_least > settings.limits.learned_output_most:
        faults.append("limits.learned_output_least: must be at most limits.learned_output_most")
    for section in ("zion", "redis"):
        values = getattr(settings, section)
        if (values.client_cert_file is None) != (values.client_key_file is None):
            faults.append(
                f"{section}.client_cert_file: needs {section}.client_key_file, and the other way"
                " round"
            )
        faults += [
            f"{section}.{name}: {path} can't be read"
            for name in ("ca_file", "client_cert_file", "client_key_file")
            if (path := getattr(values, name)) is not None and not os.access(path, os.R_OK)
        ]
    redis = settings.redis
    if (redis.ca_file or redis.client_cert_file) and not redis.url.startswith("rediss"):
        faults.append("redis.url: must be a rediss URL when TLS files are given")
    faults += policy_faults(settings.limits.policy_file)
    try:
        ModelTable(aliases=settings.tokens.aliases, overrides=settings.tokens.overrides)
    except ModelTableError as error:
        faults += [f"tokens.{fault}" for fault in error.faults]
    if settings.usage.prices_file is not None:
        try:
            load_prices(settings.usage.prices_file, str.lower)
        except PricesFileError as error:
            faults += [f"{settings.usage.prices_file}: {fault}" for fault in error.faults]
    faults += provider_faults(settings)
    faults += identity_faults(settings.identity)
    faults += tracing_faults(settings.tracing)
    return faults + admin_faults(settings.admin)
