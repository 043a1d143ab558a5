"""From a model's name to how its provider counts: a data table, aliases and overrides.

``data/models.json`` lists families. Each has name prefixes (the longest that fits wins) and the
constants that differ from the family it is ``like``. Constants drift, so configuration can
override any of them per family or model, and can alias deployment names to models.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import msgspec

from sentinel_extproc.tokens.family import FIELDS, Family

MAX_MODEL_CHARS: Final = 200
"""Names are cut here before anything else, so that the look-up cache is bounded in bytes too."""

_LOOKUP_CACHE_ENTRIES: Final = 1024
_MAX_QUALIFIERS: Final = 3


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prefixes: list[str]
    like: str | None = None
    constants: dict[str, Any] = {}


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    families: dict[str, _Entry]
    default: str
    provider_prefixes: list[str]


class ModelTableError(ValueError):
    """Aliases or overrides can't be used.

    Attributes:
        faults: one line each, ``where: what is wrong``.
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Model:
    """A resolved model.

    Attributes:
        family: the family's name in the table.
        rules: its constants.
        known: a prefix fitted; otherwise these are the default family's.
    """

    family: str
    rules: Family
    known: bool


class ModelTable:
    """Resolves model names; immutable and safe to share between threads.

    Args:
        aliases: further names (Azure deployments, gateway nicknames) to model names; compared
            without regard to case, resolved once, not in chains.
        overrides: constants that replace the table's, by family or by the beginning of model
            names. Families that are ``like`` an overridden one take them over, except what they
            have of their own. A name that no family fits needs a ``like`` among its constants:
            the family that it is otherwise counted as.

    Raises:
        ModelTableError: with every fault of both.
    """

    def __init__(
        self,
        *,
        aliases: Mapping[str, str] | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        table = msgspec.json.decode(
            resources.files(__package__).joinpath("data", "models.json").read_bytes(), type=_Table
        )
        self._aliases: dict[str, str] = {}
        self._default = table.default
        providers = "|".join(map(re.escape, table.provider_prefixes))
        self._provider = re.compile(rf"(?:[a-z]{{2,6}}\.)?({providers})\.")
        self._prefixes = _prefixes(table.families)
        entries, faults = self._overridden(table.families, overrides or {})
        self._prefixes = _prefixes(entries)
        faults += self._alias_faults(aliases or {})
        if faults:
            raise ModelTableError(faults)
        self._aliases = {_name(alias): model for alias, model in (aliases or {}).items()}
        self._families = {
            name: msgspec.convert(_constants(entries, name), Family) for name in entries
        }
        self._resolve = functools.lru_cache(_LOOKUP_CACHE_ENTRIES)(self._look_up)

    @property
    def families(self) -> Mapping[str, Family]:
        """Every family's constants after overrides."""
        return self._families

    def resolve(self, model: object) -> Model:
        """The family of ``model``; never raises, the default's constants for what isn't known."""
        name = model[:MAX_MODEL_CHARS] if isinstance(model, str) else ""
        return self._resolve(name)

    def _look_up(self, name: str) -> Model:
        family = self._family(self.canonical(name))
        if family is None:
            return Model(self._default, self._families[self._default], known=False)
        return Model(family, self._families[family], known=True)

    def _family(self, canonical: str) -> str | None:
        for prefix, family in self._prefixes:
            if canonical.startswith(prefix):
                return family
        return None

    def canonical(self, name: str) -> str:
        """``name`` as prefixes are compared with it: alias applied, provider and tuning dropped."""
        name = _name(name)
        # A deployment is aliased by its own name, with a provider in front of it or not.
        alias = self._aliases.get(name) or self._aliases.get(name.rpartition("/")[2], name)
        name = _name(alias).rpartition("/")[2]
        for _ in range(_MAX_QUALIFIERS):
            head, _, tail = name.partition(":")
            if not tail or self._family(self._spelt(head)) is not None:
                break
            # A provider or "ft" in front of the model.
            name = tail
        # What follows a colon is a tuning, a snapshot or a size: it never changes the family.
        return self._spelt(name.partition(":")[0])

    def _spelt(self, name: str) -> str:
        provider = self._provider.match(name)
        if provider is not None:
            bare = name[provider.end() :]
            # Some names are a provider's and a model's both.
            name = bare if self._family(bare) is not None else name[provider.start(1) :]
        return re.sub(r"^gpt-?35", "gpt-3.5", name)

    def _overridden(
        self, families: Mapping[str, _Entry], overrides: Mapping[str, Mapping[str, Any]]
    ) -> tuple[dict[str, _Entry], list[str]]:
        """The table with overrides in it, those of models first; and what is wrong with them."""
        models: dict[str, _Entry] = {}
        changed = dict(families)
        faults = []
        for given, override in overrides.items():
            name, where = _name(given), f"overrides.{given}"
            constants = {key: value for key, value in override.items() if key != "like"}
            found = [f"{where}.{fault}" for fault in _constant_faults(constants)]
            own = families.get(name)
            if own is not None:
                if "like" in override:
                    found.append(f"{where}.like: the table says what this family is like")
            else:
                found += self._like_faults(where, name, override, families)
            faults += found
            if found:
                continue
            if own is not None:
                changed[name] = _Entry(own.prefixes, own.like, _merged(own.constants, constants))
            else:
                like = override.get("like", self._family(name))
                models[name] = _Entry([name], like, constants)
        return models | changed, faults

    def _like_faults(
        self, where: str, name: str, override: Mapping[str, Any], families: Mapping[str, _Entry]
    ) -> list[str]:
        """What is wrong with a name that is no family's, and with what it is to be like."""
        if not name or name != self.canonical(name):
            return [f"{where}: must be a model's bare name: {self.canonical(name)!r}"]
        like = override.get("like", self._family(name))
        if like is None:
            return [f"{where}: no such family or model; a new model needs a like"]
        if not isinstance(like, str) or like not in families:
            return [f"{where}.like: no such family; there are {', '.join(families)}"]
        return []

    def _alias_faults(self, aliases: Mapping[str, str]) -> list[str]:
        faults = [
            f"aliases.{alias}: {model} is no known model; overrides can make it one"
            for alias, model in aliases.items()
            if self._family(self.canonical(model)) is None
        ]
        spelt: dict[str, str] = {}
        for alias in aliases:
            first = spelt.setdefault(_name(alias), alias)
            if first != alias:
                faults.append(f"aliases.{alias}: the same as {first}, case aside")
        return faults


def _name(name: str) -> str:
    return name.strip().lower()


def _prefixes(entries: Mapping[str, _Entry]) -> list[tuple[str, str]]:
    """Prefixes with their families, longest first; of equal ones the first in ``entries``."""
    pairs = [(prefix, name) for name, entry in entries.items() for prefix in entry.prefixes]
    return sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)


def _constant_faults(constants: Mapping[str, Any]) -> list[str]:
    faults = []
    for key, value in constants.items():
        if key not in FIELDS:
            faults.append(f"{key}: there is no such constant")
            continue
        try:
            msgspec.convert(value, FIELDS[key])
        except msgspec.ValidationError as error:
            faults.append(f"{key}: {error}")
    return faults


def _constants(entries: Mapping[str, _Entry], name: str) -> dict[str, Any]:
    entry = entries[name]
    inherited = _constants(entries, entry.like) if entry.like else {}
    return _merged(inherited, entry.constants)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**below, **above}
    if "hosted" in below and "hosted" in above:
        merged["hosted"] = {**below["hosted"], **above["hosted"]}
    return merged
