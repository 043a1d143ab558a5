"""Settings in YAML files of their own, every fault found at once."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)

# In words that need no knowledge of how the file is read.
_PLAIN = {
    "dict_type": "must be a mapping",
    "extra_forbidden": "there is no such field",
    "missing": "is needed",
    "model_type": "must be a mapping",
    "tuple_type": "must be a list",
}


class YamlFileError(ValueError):
    """A file that can't be used.

    Attributes:
        faults: one line each, beginning with the place: ``rules.0.limits.1.per: ...``.
    """

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def read_text(path: Path, error: type[YamlFileError]) -> str:
    """The text of a file.

    Raises:
        YamlFileError: it can't be read; of the class ``error``.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as fault:
        raise error((f"{path.name}: can't be read: {fault.strerror}",)) from fault
    except UnicodeDecodeError as fault:
        raise error((f"{path.name}: not UTF-8",)) from fault


def parse(text: str, model: type[M], error: type[YamlFileError], *, whole: str) -> M:
    """What YAML text says.

    Args:
        whole: what the document is called in faults that have no place.

    Raises:
        YamlFileError: with every fault; of the class ``error``.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as fault:
        raise error((f"not YAML: {' '.join(str(fault).split())}",)) from fault
    try:
        return model.model_validate(document)
    except ValidationError as faults:
        raise error(
            tuple(
                f"{'.'.join(str(part) for part in fault['loc']) or whole}: "
                f"{_PLAIN.get(fault['type']) or fault['msg'].removeprefix('Value error, ')}"
                for fault in faults.errors(include_url=False, include_input=False)
            )
        ) from faults
